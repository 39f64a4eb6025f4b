from bench.functional import Case, Functional, family
from fastdl import reference

SHORT = family("softmax, cross_entropy: rows <= 5,000", (1.7, 1.05), (1.7, 1.05))
LONG = family("softmax, cross_entropy: rows >= 30,000", (5.0, 1.5), (5.0, 1.5))


def softmax_of(x, dim, smoke=False):
    return Case(f"{x} dim {dim}", SHORT if x[dim] <= 5000 else LONG, {"x": x}, {"dim": dim}, smoke)


CASES = [
    softmax_of((4096, 1000), dim=1, smoke=True),
    softmax_of((512, 32000), dim=1),
    softmax_of((1536, 197), dim=1),
    softmax_of((16, 19, 128, 128), dim=1, smoke=True),
]


def softmax_backward(dy, x, dim):
    return [reference.softmax_backward(dy, reference.softmax_forward(x, dim), dim)]


def log_softmax_backward(dy, x, dim):
    return [reference.log_softmax_backward(dy, reference.log_softmax_forward(x, dim), dim)]


def jax(op):
    def call(x, dim):
        from jax import nn

        return getattr(nn, op)(x, axis=dim)

    return call


BENCHES = [
    Functional(
        "softmax",
        CASES,
        reference.softmax_forward,
        softmax_backward,
        jax=jax("softmax"),
        onnx=lambda graph, x, dim: graph.node("Softmax", x, axis=dim),
    ),
    Functional(
        "log_softmax",
        CASES,
        reference.log_softmax_forward,
        log_softmax_backward,
        jax=jax("log_softmax"),
        onnx=lambda graph, x, dim: graph.node("LogSoftmax", x, axis=dim),
    ),
]
