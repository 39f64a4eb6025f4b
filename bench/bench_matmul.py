from bench.functional import Case, Functional
from fastdl import reference


def product(x, other, smoke=False):
    return Case(f"{x} @ {other}", {"x": x, "other": other}, smoke=smoke)


CASES = [
    product((512, 512), (512, 512), smoke=True),
    product((2048, 2048), (2048, 2048)),
    product((96, 128, 64), (96, 64, 128), smoke=True),
]

BENCHES = [
    Functional(
        "matmul", CASES, reference.matmul_forward, reference.matmul_backward, wrt=("x", "other")
    )
]
