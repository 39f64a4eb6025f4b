"""y = activation(x @ weight^T + bias + residual) over the last axis of x.

weight is (out, in), or (in) for one output; activation is None, "relu", "gelu" or "gelu_tanh".
Backward, without activation and residual: dx = dy @ weight, dweight = dy^T @ x, dbias = sum of dy,
sums over all leading axes.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference.activations import gelu_forward, relu_forward

# What the ops with an epilogue take as ``activation``.
ACTIVATIONS: dict[str | None, Callable[[ArrayLike], NDArray[np.float64]]] = {
    None: lambda x: np.asarray(x, np.float64),
    "relu": relu_forward,
    "gelu": gelu_forward,
    "gelu_tanh": partial(gelu_forward, approximate="tanh"),
}


@np.errstate(invalid="ignore")
def linear_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> NDArray[np.float64]:
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    for term in (bias, residual):
        if term is not None:
            y = y + np.asarray(term, np.float64)
    return ACTIVATIONS[activation](y)


@np.errstate(invalid="ignore")
def linear_backward(
    dy: ArrayLike, x: ArrayLike, weight: ArrayLike, output_mask: Sequence[bool] = (True,) * 3
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    matrix = np.atleast_2d(weight)
    rows, (out_features, in_features) = math.prod(x.shape[:-1]), matrix.shape
    dy, x_rows = dy.reshape(rows, out_features), x.reshape(rows, in_features)
    return (
        (dy @ matrix).reshape(x.shape) if output_mask[0] else None,
        (dy.T @ x_rows).reshape(weight.shape) if output_mask[1] else None,
        # along contiguous memory NumPy sums in pairs, else one by one
        dy.T.copy().sum(axis=1).reshape(weight.shape[:-1]) if output_mask[2] else None,
    )
