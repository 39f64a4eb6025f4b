"""One typical call of every public op: what must hold for all of them is tested on these."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests.testing import random, rng


class Sample(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def sample(*args: Any, **kwargs: Any) -> Sample:
    return Sample(args, kwargs)


def positive(shape: Any, dtype: Any) -> np.ndarray:
    return np.abs(random(shape, dtype)) + np.asarray(0.5, dtype)


def classes(*shape: int) -> np.ndarray:
    return rng(3).integers(0, 10, shape)


IMAGE = (2, 6, 13, 17)

SAMPLES: dict[str, Callable[[Any], Sample]] = {
    "adaptive_avg_pool2d": lambda t: sample(random(IMAGE, t), (5, 4)),
    "adaptive_max_pool2d": lambda t: sample(random(IMAGE, t), (5, 4)),
    "avg_pool2d": lambda t: sample(random(IMAGE, t), 3, 2, padding=1),
    "batch_norm": lambda t: sample(
        random(IMAGE, t), random(6, t), positive(6, t), positive(6, t), random(6, t), training=True
    ),
    "conv2d": lambda t: sample(
        random(IMAGE, t), random((8, 3, 3, 3), t), random(8, t), padding=1, groups=2
    ),
    "cross_entropy": lambda t: sample(random((33, 10), t), classes(33), positive(10, t)),
    "elu": lambda t: sample(random(IMAGE, t)),
    "gelu": lambda t: sample(random(IMAGE, t)),
    "layer_norm": lambda t: sample(random(IMAGE, t), (13, 17), positive((13, 17), t)),
    "leaky_relu": lambda t: sample(random(IMAGE, t)),
    "linear": lambda t: sample(random((5, 7, 19), t), random((11, 19), t), random(11, t)),
    "log_softmax": lambda t: sample(random(IMAGE, t), 1),
    "matmul": lambda t: sample(random((3, 1, 9, 21), t), random((4, 21, 17), t)),
    "max_pool2d": lambda t: sample(random(IMAGE, t), 3, 2, padding=1),
    "nll_loss": lambda t: sample(random((33, 10), t), classes(33), positive(10, t)),
    "relu": lambda t: sample(random(IMAGE, t)),
    "relu6": lambda t: sample(random(IMAGE, t)),
    "scaled_dot_product_attention": lambda t: sample(
        random((2, 4, 17, 16), t),
        random((2, 2, 23, 16), t, seed=1),
        random((2, 2, 23, 8), t, seed=2),
        random((17, 23), t, seed=3),
        enable_gqa=True,
    ),
    "sigmoid": lambda t: sample(random(IMAGE, t)),
    "silu": lambda t: sample(random(IMAGE, t)),
    "softmax": lambda t: sample(random(IMAGE, t), -1),
    "tanh": lambda t: sample(random(IMAGE, t)),
}
