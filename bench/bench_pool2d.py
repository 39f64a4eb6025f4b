import numpy as np

from bench.functional import Case, Functional, family
from fastdl import reference

POOLING = family("pooling", (12.0, 1.0), (8.0, 1.1))
SMALL, LARGE = {"x": (4, 64, 56, 56)}, {"x": (16, 64, 112, 112)}
WINDOWS = {
    "2x2 stride 2": {"kernel_size": 2},
    "3x3 stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3x3 stride 1": {"kernel_size": 3, "stride": 1, "padding": 1},
}
SLIDING = [
    Case(
        f"{name} {arrays['x']}",
        POOLING,
        arrays,
        window,
        smoke=arrays is SMALL and name != "3x3 stride 1",
    )
    for arrays in (SMALL, LARGE)
    for name, window in WINDOWS.items()
]
SLIDING.append(
    Case("3x3 stride 2 (1, 16, 17, 19)", POOLING, {"x": (1, 16, 17, 19)}, WINDOWS["3x3 stride 2"])
)
ADAPTIVE = [
    Case("(16, 512, 7, 7) to 1", POOLING, {"x": (16, 512, 7, 7)}, {"output_size": 1}, smoke=True),
    Case("(16, 256, 13, 13) to 6", POOLING, {"x": (16, 256, 13, 13)}, {"output_size": 6}),
    Case("(16, 256, 14, 14) to 5", POOLING, {"x": (16, 256, 14, 14)}, {"output_size": 5}),
]


def max_pool2d(x, **options):
    return reference.max_pool2d_forward(x, **options)[0]


def max_pool2d_backward(dy, x, **options):
    indices = reference.max_pool2d_forward(x, **options)[1]
    return [reference.max_pool2d_backward(dy, indices, x.shape)]


def avg_pool2d_backward(dy, x, **options):
    return [reference.avg_pool2d_backward(dy, x.shape, **options)]


def adaptive_max_pool2d(x, output_size):
    return reference.adaptive_max_pool2d_forward(x, output_size)[0]


def adaptive_max_pool2d_backward(dy, x, output_size):
    indices = reference.adaptive_max_pool2d_forward(x, output_size)[1]
    return [reference.adaptive_max_pool2d_backward(dy, indices, x.shape)]


def adaptive_avg_pool2d_backward(dy, x, output_size):
    return [reference.adaptive_avg_pool2d_backward(dy, x.shape)]


def jax_pool(x, start, combine, kernel_size, stride=None, padding=0):
    from jax import lax

    stride = stride or kernel_size
    pads = [(0, 0)] * 2 + [(padding, padding)] * 2
    return lax.reduce_window(
        x, start, combine, (1, 1, kernel_size, kernel_size), (1, 1, stride, stride), pads
    )


def jax_max_pool2d(x, **options):
    from jax import lax

    return jax_pool(x, -np.inf, lax.max, **options)


def jax_avg_pool2d(x, kernel_size, **options):
    from jax import lax

    return jax_pool(x, 0.0, lax.add, kernel_size, **options) / kernel_size**2


def onnx_window(kernel_size, stride=None, padding=0):
    return {
        "kernel_shape": [kernel_size] * 2,
        "strides": [stride or kernel_size] * 2,
        "pads": [padding] * 4,
    }


def onnx_max_pool2d(graph, x, **options):
    return graph.node("MaxPool", x, **onnx_window(**options))


def onnx_avg_pool2d(graph, x, **options):
    return graph.node("AveragePool", x, count_include_pad=1, **onnx_window(**options))


def of_whole_image(reduce):
    """Of adaptive pooling JAX and ONNX have only that to one value."""
    return lambda *args, output_size: reduce(*args) if output_size == 1 else None


BENCHES = [
    Functional(
        "max_pool2d",
        SLIDING,
        max_pool2d,
        max_pool2d_backward,
        jax=jax_max_pool2d,
        onnx=onnx_max_pool2d,
        images=True,
    ),
    Functional(
        "avg_pool2d",
        SLIDING,
        reference.avg_pool2d_forward,
        avg_pool2d_backward,
        jax=jax_avg_pool2d,
        onnx=onnx_avg_pool2d,
        images=True,
    ),
    Functional(
        "adaptive_max_pool2d",
        ADAPTIVE,
        adaptive_max_pool2d,
        adaptive_max_pool2d_backward,
        jax=lambda x, output_size: x.max((2, 3), keepdims=True) if output_size == 1 else None,
        onnx=of_whole_image(lambda graph, x: graph.node("GlobalMaxPool", x)),
        images=True,
    ),
    Functional(
        "adaptive_avg_pool2d",
        ADAPTIVE,
        reference.adaptive_avg_pool2d_forward,
        adaptive_avg_pool2d_backward,
        jax=lambda x, output_size: x.mean((2, 3), keepdims=True) if output_size == 1 else None,
        onnx=of_whole_image(lambda graph, x: graph.node("GlobalAveragePool", x)),
        images=True,
    ),
]
