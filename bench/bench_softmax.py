from bench.functional import Case, Functional
from fastdl import reference

CASES = [
    Case("(4096, 1000) dim 1", {"x": (4096, 1000)}, {"dim": 1}, smoke=True),
    Case("(512, 32000) dim 1", {"x": (512, 32000)}, {"dim": 1}),
    Case("(16, 19, 128, 128) dim 1", {"x": (16, 19, 128, 128)}, {"dim": 1}, smoke=True),
]


def softmax_backward(dy, x, dim):
    return [reference.softmax_backward(dy, reference.softmax_forward(x, dim), dim)]


def log_softmax_backward(dy, x, dim):
    return [reference.log_softmax_backward(dy, reference.log_softmax_forward(x, dim), dim)]


BENCHES = [
    Functional("softmax", CASES, reference.softmax_forward, softmax_backward),
    Functional("log_softmax", CASES, reference.log_softmax_forward, log_softmax_backward),
]
