from bench.bench_matmul import PRODUCTS
from bench.functional import BOTH, FORWARD, Case, Functional
from fastdl import pack_linear_weight, reference


def layer(rows, inputs, outputs, smoke=False, pack=None, **options):
    arrays = {"x": (rows, inputs), "weight": (outputs, inputs), "bias": (outputs,)}
    words = [*options.values(), *(["weight packed"] if pack else [])]
    name = " ".join([f"({rows}, {inputs}) to {outputs}", *words])
    return Case(name, PRODUCTS, arrays, options, smoke=smoke, pack=pack)


CASES = [
    layer(128, 768, 768, smoke=True),
    layer(128, 768, 3072),
    layer(128, 768, 3072, activation="gelu"),  # the peers' in two steps
    layer(197, 768, 768),  # ViT-B's tokens
    layer(16, 4096, 4096),
    layer(1, 4096, 4096, smoke=True),
]
# The weight as a constant that fastdl may rearrange beforehand, as onnxruntime and openvino always
# may.
CONSTANT = [
    layer(128, 768, 768, smoke=True, pack=pack_linear_weight),
    layer(128, 768, 3072, pack=pack_linear_weight),
    layer(197, 768, 768, pack=pack_linear_weight),
    layer(16, 4096, 4096, pack=pack_linear_weight),
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
        cases,
        reference.linear_forward,
        backward,
        wrt=("x", "weight", "bias"),
        torch=torch,
        jax=jax,
        onnx=onnx,
        directions=directions,
    )
    for cases, directions in [(CASES, (FORWARD, BOTH)), (CONSTANT, (FORWARD,))]
]
