import numpy as np

from bench.functional import Case, Functional, family
from fastdl import reference

TRAINING = family("batch_norm training", (3.5, 1.1), (2.0, 1.1))
EVALUATION = family("batch_norm evaluation")
EPS = 1e-5


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
    return Case(name, TRAINING if training else EVALUATION, arrays, {"training": training}, smoke)


CASES = [
    norm((16, 64, 112, 112), training=True),
    norm((16, 64, 112, 112), training=False),
    norm((16, 64, 28, 28), training=True, smoke=True),
    norm((16, 256, 14, 14), training=True),
    norm((4, 13, 17, 19), training=True),
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


def jax(x, running_mean, running_var, weight, bias, training):
    from jax import lax

    axes = (0, *range(2, x.ndim))
    mean, var = (x.mean(axes), x.var(axes)) if training else (running_mean, running_var)
    shape = (-1, *[1] * (x.ndim - 2))
    scale = weight * lax.rsqrt(var + EPS)
    return (x - mean.reshape(shape)) * scale.reshape(shape) + bias.reshape(shape)


def onnx(graph, x, running_mean, running_var, weight, bias, training):
    if training:  # these runtimes are for trained networks
        return None
    return graph.node("BatchNormalization", x, weight, bias, running_mean, running_var, epsilon=EPS)


BENCHES = [
    Functional(
        "batch_norm",
        CASES,
        lambda x, **arguments: saved(x, **arguments)[0],
        backward,
        wrt=("x", "weight", "bias"),
        jax=jax,
        onnx=onnx,
        images=True,
    )
]
