from bench.functional import Case, Functional
from fastdl import reference


def scores(N, C, smoke=False):
    arrays = {"x": (N, C), "target": lambda rng: rng.integers(0, C, N)}
    return Case(f"({N}, {C})", arrays, smoke=smoke)


CASES = [scores(4096, 1000, smoke=True), scores(512, 32000), scores(64, 10, smoke=True)]


def cross_entropy_backward(dy, x, target):
    return [reference.cross_entropy_backward(dy, x, target)[0]]


def nll_loss_backward(dy, x, target):
    return [reference.nll_loss_backward(dy, x, target)]


BENCHES = [
    Functional("cross_entropy", CASES, reference.cross_entropy_forward, cross_entropy_backward),
    Functional("nll_loss", CASES, reference.nll_loss_forward, nll_loss_backward),
]
