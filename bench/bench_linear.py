from bench.bench_matmul import PRODUCTS
from bench.functional import Case, Functional
from fastdl import reference


def layer(rows, inputs, outputs, smoke=False, **options):
    arrays = {"x": (rows, inputs), "weight": (outputs, inputs), "bias": (outputs,)}
    name = " ".join([f"({rows}, {inputs}) to {outputs}", *options.values()])
    return Case(name, PRODUCTS, arrays, options, smoke=smoke)


CASES = [
    layer(128, 768, 768, smoke=True),
    layer(128, 768, 3072),
    layer(128, 768, 3072, activation="gelu"),  # the peers' in two steps
    layer(197, 768, 768),  # ViT-B's tokens
    layer(16, 4096, 4096),
    layer(1, 4096, 4096, smoke=True),
]


def backward(dy, x, weight, bias, activation=None):
    if activation:
        dy = reference.gelu_backward(dy, reference.linear_forward(x, weight, bias))
    return reference.linear_backward(dy, x, weight)


def torch(x, weight, bias, activation=None):
    from torch.nn.functional import gelu, linear

    y = linear(x, weight, bias)
    return gelu(y) if activation else y


def jax(x, weight, bias, activation=None):
    from jax.nn import gelu

    y = x @ weight.T + bias
    return gelu(y, approximate=False) if activation else y


def onnx(graph, x, weight, bias, activation=None):
    if activation:
        return None
    return graph.node("Gemm", x, weight, bias, transB=1)


BENCHES = [
    Functional(
        "linear",
        CASES,
        reference.linear_forward,
        backward,
        wrt=("x", "weight", "bias"),
        torch=torch,
        jax=jax,
        onnx=onnx,
    )
]
