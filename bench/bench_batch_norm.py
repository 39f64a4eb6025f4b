import numpy as np

from bench.case import Case, normal


def batch_norm(shape: tuple[int, ...], smoke: bool, training: bool) -> Case:
    c = shape[1]

    def args(t):
        ones, shift = np.ones(c, t), normal(c, t, seed=1)
        return normal(shape, t), np.zeros(c, t), ones.copy(), 1 + 0.1 * shift, shift

    mode = "training" if training else "eval"
    return Case("batch_norm", f"{shape} {mode}", args, {"training": training}, smoke)


CASES = [
    batch_norm((16, 64, 112, 112), False, True),
    batch_norm((16, 256, 28, 28), True, True),
    batch_norm((32, 512, 7, 7), False, True),
    batch_norm((4096, 512), False, True),
    batch_norm((16, 256, 28, 28), False, False),
]
