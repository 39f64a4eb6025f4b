"""y = (x - mean) * rstd * weight + bias over the last axes,  rstd = 1 / sqrt(var + eps).

mean and var are taken over the axes of ``normalized_shape``; var divides by their count.
Backward, with xhat = (x - mean) * rstd and g = dy * weight:
dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),
dweight = sum(dy * xhat) and dbias = sum(dy) over the leading axes.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(invalid="ignore")
def layer_norm_forward(
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x = np.asarray(x, np.float64)
    leading, axes = _split_axes(x, normalized_shape)
    mean = _mean(x, axes)
    var = _mean((x - mean) ** 2, axes)
    rstd = 1 / np.sqrt(var + eps)
    y = (x - mean) * rstd
    if weight is not None:
        y = y * np.asarray(weight, np.float64)
    if bias is not None:
        y = y + np.asarray(bias, np.float64)
    shape = [x.shape[axis] for axis in leading]
    return y, mean.reshape(shape), rstd.reshape(shape)


@np.errstate(invalid="ignore")
def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    normalized_shape: int | Sequence[int],
    mean: ArrayLike,
    rstd: ArrayLike,
    weight: ArrayLike | None = None,
    output_mask: Sequence[bool] = (True,) * 3,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    leading, axes = _split_axes(x, normalized_shape)
    mean, rstd = (np.expand_dims(np.asarray(a, np.float64), axes) for a in (mean, rstd))
    xhat = (x - mean) * rstd
    g = dy if weight is None else dy * np.asarray(weight, np.float64)
    return (
        rstd * (g - _mean(g, axes) - xhat * _mean(g * xhat, axes)) if output_mask[0] else None,
        (dy * xhat).sum(axis=leading) if output_mask[1] else None,
        dy.sum(axis=leading) if output_mask[2] else None,
    )


def _split_axes(
    x: NDArray[np.float64], normalized_shape: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The leading axes of x and those that are normalised."""
    first = x.ndim - np.size(normalized_shape)
    return tuple(range(first)), tuple(range(first, x.ndim))


def _mean(x: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean with its axes kept; 0 where there is nothing to average."""
    return np.asarray(
        x.sum(axis=axes, keepdims=True) / max(math.prod(x.shape[axis] for axis in axes), 1)
    )
