import numpy as np

from bench.functional import Case, Functional, family
from fastdl import reference

SIMPLE = family("activations", (1.0, 1.0), (1.0, 1.0))
TANH = family("tanh, gelu(tanh)", (3.0, 1.0), (3.0, 1.0))
SIZES = {"1M": 1 << 20, "4M": 1 << 22}
# The gradient comes from x, else from y.
OF_X = ("relu", "relu6", "leaky_relu", "elu", "silu", "gelu")
ONNX = {
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
}


def activation(op: str) -> Functional:
    forward = getattr(reference, f"{op}_forward")
    gradient = getattr(reference, f"{op}_backward")

    def backward(dy, x, **options):
        return [gradient(dy, x if op in OF_X else forward(x), **options)]

    def jax(x, approximate="none"):
        from jax import nn

        return nn.gelu(x, approximate == "tanh") if op == "gelu" else getattr(nn, op)(x)

    def onnx(graph, x, **options):
        if op == "silu":
            return graph.node("Mul", x, graph.node("Sigmoid", x))
        if op == "relu6":
            return graph.node("Min", graph.node("Relu", x), graph.constant(np.float32(6)))
        if op == "gelu":
            return graph.node("Gelu", x, **options)
        return graph.node(ONNX[op], x)

    cases = [
        Case(name, TANH if op == "tanh" else SIMPLE, {"x": (n,)}, smoke=name == "1M")
        for name, n in SIZES.items()
    ]
    if op == "gelu":
        cases += [
            Case(f"{name} tanh", TANH, {"x": (n,)}, {"approximate": "tanh"}, smoke=name == "1M")
            for name, n in SIZES.items()
        ]
    return Functional(op, cases, forward, backward, jax=jax, onnx=onnx)


BENCHES = [activation(op) for op in (*OF_X, "sigmoid", "tanh")]
