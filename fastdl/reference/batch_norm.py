"""y = (x - mean) * rstd * weight + bias for each channel (axis 1),  rstd = 1 / sqrt(var + eps).

Training: mean and var are those of the batch over all other axes, and the running statistics move
to (1 - momentum) * running + momentum * batch, with n / (n - 1) * var for the variance; a batch
without elements leaves them. Evaluation: mean and var are the running ones.
Backward, with xhat = (x - mean) * rstd and g = dy * weight:
dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) in training, else rstd * g;
dweight = sum(dy * xhat), dbias = sum(dy).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(invalid="ignore")
def batch_norm_forward(
    x: ArrayLike,
    running_mean: NDArray[Any] | None,
    running_var: NDArray[Any] | None,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x = np.asarray(x, np.float64)
    if training:
        mean = _channel_mean(x)
        var = _channel_mean((x - _per_channel(mean, x)) ** 2)
        count = _count(x)
        if count > 0 and running_mean is not None:
            _move(running_mean, mean, momentum)
        if count > 0 and running_var is not None:
            _move(running_var, var * (count / (count - 1)), momentum)
    else:
        mean, var = np.array(running_mean, np.float64), np.array(running_var, np.float64)
    rstd = 1 / np.sqrt(var + eps)
    y = (x - _per_channel(mean, x)) * _per_channel(rstd, x)
    if weight is not None:
        y = y * _per_channel(weight, x)
    if bias is not None:
        y = y + _per_channel(bias, x)
    return y, mean, rstd


@np.errstate(invalid="ignore")
def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None,
    mean: ArrayLike,
    rstd: ArrayLike,
    training: bool = True,
    output_mask: Sequence[bool] = (True,) * 3,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    rstd = _per_channel(rstd, x)
    xhat = (x - _per_channel(mean, x)) * rstd
    g = dy if weight is None else dy * _per_channel(weight, x)
    dx = rstd * g
    if training:
        mean_g, mean_gx = _channel_mean(g), _channel_mean(g * xhat)
        dx -= rstd * (_per_channel(mean_g, x) + xhat * _per_channel(mean_gx, x))
    return (
        dx if output_mask[0] else None,
        (dy * xhat).sum(axis=_other_axes(x)) if output_mask[1] else None,
        dy.sum(axis=_other_axes(x)) if output_mask[2] else None,
    )


def _move(running: NDArray[Any], batch: NDArray[np.float64], momentum: float) -> None:
    running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch


def _other_axes(x: NDArray[np.float64]) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _count(x: NDArray[np.float64]) -> int:
    return math.prod(x.shape[axis] for axis in _other_axes(x))


def _channel_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x.sum(axis=_other_axes(x)) / max(_count(x), 1))


def _per_channel(values: ArrayLike, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C) to (C, 1, ..., 1), to broadcast against x."""
    return np.asarray(values, np.float64).reshape(-1, *[1] * (x.ndim - 2))
