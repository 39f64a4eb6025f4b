"""y[..., m, n] = sum_k x[..., m, k] * other[..., k, n], the leading axes broadcast.

A 1-D x is a row (1, K), a 1-D other a column (K, 1), and the axis of length 1 leaves y again.
A bias (N) may be added to each row of y.
Backward: dx = dy @ other^T, dother = x^T @ dy, summed over the axes that were broadcast.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(invalid="ignore")
def matmul_forward(
    x: ArrayLike, other: ArrayLike, bias: ArrayLike | None = None
) -> NDArray[np.float64]:
    y = np.asarray(np.matmul(np.asarray(x, np.float64), np.asarray(other, np.float64)))
    return y if bias is None else y + np.asarray(bias, np.float64)


@np.errstate(invalid="ignore")
def matmul_backward(
    dy: ArrayLike, x: ArrayLike, other: ArrayLike, output_mask: Sequence[bool] = (True,) * 2
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    dy, x, other = (np.asarray(a, np.float64) for a in (dy, x, other))
    left = x[None, :] if x.ndim == 1 else x
    right = other[:, None] if other.ndim == 1 else other
    if other.ndim == 1:
        dy = dy[..., None]
    if x.ndim == 1:
        dy = dy[..., None, :]
    dleft, dright = dy @ right.swapaxes(-1, -2), left.swapaxes(-1, -2) @ dy
    return (
        _sum_to(dleft, left.shape).reshape(x.shape) if output_mask[0] else None,
        _sum_to(dright, right.shape).reshape(other.shape) if output_mask[1] else None,
    )


def _sum_to(x: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The transpose of broadcasting from ``shape``."""
    new = x.ndim - len(shape)
    stretched = [new + i for i, size in enumerate(shape) if size == 1 and x.shape[new + i] != 1]
    return np.asarray(x.sum(axis=(*range(new), *stretched), keepdims=True)).reshape(shape)
