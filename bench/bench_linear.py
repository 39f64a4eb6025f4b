from bench.bench_matmul import PRODUCTS
from bench.functional import Case, Functional
from fastdl import reference


def layer(rows, inputs, outputs, smoke=False):
    arrays = {"x": (rows, inputs), "weight": (outputs, inputs), "bias": (outputs,)}
    return Case(f"({rows}, {inputs}) to {outputs}", PRODUCTS, arrays, smoke=smoke)


CASES = [
    layer(128, 768, 768, smoke=True),
    layer(128, 768, 3072),
    layer(1, 4096, 4096, smoke=True),
]


def backward(dy, x, weight, bias):
    return reference.linear_backward(dy, x, weight)


def jax(x, weight, bias):
    return x @ weight.T + bias


def onnx(graph, x, weight, bias):
    return graph.node("Gemm", x, weight, bias, transB=1)


BENCHES = [
    Functional(
        "linear",
        CASES,
        reference.linear_forward,
        backward,
        wrt=("x", "weight", "bias"),
        jax=jax,
        onnx=onnx,
    )
]
