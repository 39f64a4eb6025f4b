"""y = x @ weight^T + bias over the last axis of x; weight is (out, in), or (in) for one output.

Backward: dx = dy @ weight, dweight = dy^T @ x, dbias = sum of dy, sums over all leading axes.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(invalid="ignore")
def linear_forward(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None
) -> NDArray[np.float64]:
    y = np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T
    return np.asarray(y if bias is None else y + np.asarray(bias, np.float64))


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
