"""y[i, j] = the largest x in rows floor(i*H/Ho) to ceil((i+1)*H/Ho) and columns likewise.

Also returns its position h*W + w in the plane. Of equal elements the first is taken; a NaN beats
every number, and of several NaN the last one is taken, as in torch.
An ``output_size`` of None keeps the input's size.
Backward: dx collects dy at the positions, as in max_pool2d.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._window import adaptive_cells, adaptive_output
from fastdl.reference.max_pool2d import max_pool2d_backward


def adaptive_max_pool2d_forward(
    x: ArrayLike, output_size: int | Sequence[int | None]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x = np.asarray(x, np.float64)
    *planes, height, width = x.shape
    output = adaptive_output((height, width), output_size)
    positions = np.arange(height * width).reshape(height, width)
    y = np.empty((*planes, *output))
    indices = np.empty(y.shape, np.int64)
    for cell, window in adaptive_cells((height, width), output):
        position = positions[window].ravel()
        values = x[window].reshape(*planes, position.size)
        best = _argmax(values)
        y[cell] = np.take_along_axis(values, best[..., None], axis=-1)[..., 0]
        indices[cell] = position[best]
    return y, indices


def adaptive_max_pool2d_backward(
    dy: ArrayLike, indices: ArrayLike, input_size: Sequence[int]
) -> NDArray[np.float64]:
    return max_pool2d_backward(dy, indices, input_size)


def _argmax(values: NDArray[np.float64]) -> NDArray[np.int64]:
    nan = np.isnan(values)
    last_nan = values.shape[-1] - 1 - np.argmax(nan[..., ::-1], axis=-1)
    return np.asarray(np.where(nan.any(axis=-1), last_nan, np.argmax(values, axis=-1)))
