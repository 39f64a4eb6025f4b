import numpy as np

from bench.functional import Case, Functional
from fastdl import reference


def norm(x, training, smoke=False):
    C = x[1]
    arrays = {
        "x": x,
        "running_mean": lambda rng: np.zeros(C),
        "running_var": lambda rng: np.ones(C),
        "weight": (C,),
        "bias": (C,),
    }
    name = f"{x} {'training' if training else 'evaluation'}"
    return Case(name, arrays, {"training": training}, smoke)


CASES = [
    norm((16, 64, 112, 112), training=True),
    norm((16, 64, 112, 112), training=False),
    norm((16, 64, 28, 28), training=True, smoke=True),
    norm((4096, 1024), training=True, smoke=True),
]


def saved(x, running_mean, running_var, weight, bias, training):
    """y, mean and rstd; the running statistics stay as they are."""
    return reference.batch_norm_forward(
        x, running_mean.copy(), running_var.copy(), weight, bias, training
    )


def backward(dy, x, running_mean, running_var, weight, bias, training):
    _, mean, rstd = saved(x, running_mean, running_var, weight, bias, training)
    return reference.batch_norm_backward(dy, x, weight, mean, rstd, training)


BENCHES = [
    Functional(
        "batch_norm",
        CASES,
        lambda x, **arguments: saved(x, **arguments)[0],
        backward,
        wrt=("x", "weight", "bias"),
    )
]
