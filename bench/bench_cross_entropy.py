import numpy as np

from bench.case import Case, normal


def cross_entropy(shape: tuple[int, ...], smoke: bool = False) -> Case:
    def args(t):
        target = np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
        return normal(shape, t), target

    return Case("cross_entropy", str(shape), args, smoke=smoke)


CASES = [
    cross_entropy((64, 10), smoke=True),
    cross_entropy((4096, 1000), smoke=True),
    cross_entropy((512, 32000)),
    cross_entropy((16, 19, 128, 128)),
]
