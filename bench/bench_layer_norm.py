from bench.functional import Case, Functional, family
from fastdl import reference

LAYER_NORM = family("layer_norm", (1.15, 1.0), (1.3, 1.2))
EPS = 1e-5


def norm(rows, width, smoke=False):
    arrays = {"x": (rows, width), "weight": (width,), "bias": (width,)}
    return Case(f"({rows}, {width})", LAYER_NORM, arrays, {"normalized_shape": (width,)}, smoke)


CASES = [
    norm(4096, 768, smoke=True),
    norm(197, 768),  # ViT-B, one image
    norm(1023, 300),
    norm(512, 4096),
    norm(8192, 4096),
]


def forward(x, weight, bias, normalized_shape):
    return reference.layer_norm_forward(x, normalized_shape, weight, bias)[0]


def backward(dy, x, weight, bias, normalized_shape):
    _, mean, rstd = reference.layer_norm_forward(x, normalized_shape, weight, bias)
    return reference.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)


def jax(x, weight, bias, normalized_shape):
    from jax import lax

    axes = tuple(range(-len(normalized_shape), 0))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + EPS) * weight + bias


def onnx(graph, x, weight, bias, normalized_shape):
    return graph.node(
        "LayerNormalization", x, weight, bias, axis=-len(normalized_shape), epsilon=EPS
    )


BENCHES = [
    Functional(
        "layer_norm",
        CASES,
        forward,
        backward,
        wrt=("x", "weight", "bias"),
        jax=jax,
        onnx=onnx,
    )
]
