from bench.functional import Case, Functional, family
from fastdl import reference

PRODUCTS = family("matmul, linear", (1.08, 1.05), (1.08, 1.05))


def product(x, other, smoke=False):
    return Case(f"{x} @ {other}", PRODUCTS, {"x": x, "other": other}, smoke=smoke)


CASES = [
    product((512, 512), (512, 512), smoke=True),
    product((2048, 2048), (2048, 2048)),
    product((96, 128, 64), (96, 64, 128), smoke=True),
    product((197, 1023), (1023, 197)),
    product((17, 19), (19, 23)),
    product((4096, 4096), (4096,)),
]

BENCHES = [
    Functional(
        "matmul",
        CASES,
        reference.matmul_forward,
        reference.matmul_backward,
        wrt=("x", "other"),
        jax=lambda x, other: x @ other,
        onnx=lambda graph, x, other: graph.node("MatMul", x, other),
    )
]
