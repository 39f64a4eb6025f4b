from bench.functional import Case, Functional
from fastdl import reference

SMALL, LARGE = {"x": (4, 64, 56, 56)}, {"x": (16, 64, 112, 112)}
WINDOWS = {
    "2x2 stride 2": {"kernel_size": 2},
    "3x3 stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3x3 stride 1": {"kernel_size": 3, "stride": 1, "padding": 1},
}
SLIDING = [
    Case(f"{name} {arrays['x']}", arrays, window, smoke=arrays is SMALL and name != "3x3 stride 1")
    for arrays in (SMALL, LARGE)
    for name, window in WINDOWS.items()
]
ADAPTIVE = [
    Case("(16, 512, 7, 7) to 1", {"x": (16, 512, 7, 7)}, {"output_size": 1}, smoke=True),
    Case("(16, 256, 13, 13) to 6", {"x": (16, 256, 13, 13)}, {"output_size": 6}),
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


BENCHES = [
    Functional("max_pool2d", SLIDING, max_pool2d, max_pool2d_backward),
    Functional("avg_pool2d", SLIDING, reference.avg_pool2d_forward, avg_pool2d_backward),
    Functional("adaptive_max_pool2d", ADAPTIVE, adaptive_max_pool2d, adaptive_max_pool2d_backward),
    Functional(
        "adaptive_avg_pool2d",
        ADAPTIVE,
        reference.adaptive_avg_pool2d_forward,
        adaptive_avg_pool2d_backward,
    ),
]
