from bench.functional import Case, Functional
from fastdl import reference


def norm(rows, width, smoke=False):
    arrays = {"x": (rows, width), "weight": (width,), "bias": (width,)}
    return Case(f"({rows}, {width})", arrays, {"normalized_shape": (width,)}, smoke)


CASES = [norm(4096, 768, smoke=True), norm(512, 4096), norm(8192, 4096)]


def forward(x, weight, bias, normalized_shape):
    return reference.layer_norm_forward(x, normalized_shape, weight, bias)[0]


def backward(dy, x, weight, bias, normalized_shape):
    _, mean, rstd = reference.layer_norm_forward(x, normalized_shape, weight, bias)
    return reference.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)


BENCHES = [Functional("layer_norm", CASES, forward, backward, wrt=("x", "weight", "bias"))]
