from bench.bench_softmax import LONG, SHORT
from bench.functional import Case, Functional, family
from fastdl import reference

NLL = family("nll_loss")


def cases(op):
    def scores(N, C, *size, smoke=False):
        of_width = SHORT if C <= 5000 else LONG
        arrays = {"x": (N, C, *size), "target": lambda rng: rng.integers(0, C, (N, *size))}
        of_op = of_width if op == "cross_entropy" else NLL
        return Case(str((N, C, *size)), of_op, arrays, smoke=smoke)

    return [
        scores(4096, 1000, smoke=True),
        scores(512, 32000),
        scores(64, 10, smoke=True),
        scores(16, 19, 128, 128),  # segmentation
    ]


def cross_entropy_backward(dy, x, target):
    return [reference.cross_entropy_backward(dy, x, target)[0]]


def nll_loss_backward(dy, x, target):
    return [reference.nll_loss_backward(dy, x, target)]


def jax_nll_loss(x, target):
    from jax import numpy as jnp

    return -jnp.take_along_axis(x, target[:, None], 1).mean()


def jax_cross_entropy(x, target):
    from jax import nn

    return jax_nll_loss(nn.log_softmax(x, 1), target)


BENCHES = [
    Functional(
        "cross_entropy",
        cases("cross_entropy"),
        reference.cross_entropy_forward,
        cross_entropy_backward,
        jax=jax_cross_entropy,
        onnx=lambda graph, x, target: graph.node("SoftmaxCrossEntropyLoss", x, target),
    ),
    Functional(
        "nll_loss",
        cases("nll_loss"),
        reference.nll_loss_forward,
        nll_loss_backward,
        jax=jax_nll_loss,
        onnx=lambda graph, x, target: graph.node("NegativeLogLikelihoodLoss", x, target),
    ),
]
