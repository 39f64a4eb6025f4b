"""y[i, j] = the mean of x over rows floor(i*H/Ho) to ceil((i+1)*H/Ho) and columns likewise.

The windows overlap where Ho does not divide H. An ``output_size`` of None keeps the input's size.
Backward: every element collects dy / count of the windows it lies in.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._window import adaptive_cells, adaptive_output


@np.errstate(invalid="ignore")
def adaptive_avg_pool2d_forward(
    x: ArrayLike, output_size: int | Sequence[int | None]
) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    *planes, height, width = x.shape
    output = adaptive_output((height, width), output_size)
    y = np.empty((*planes, *output))
    for cell, window in adaptive_cells((height, width), output):
        y[cell] = x[window].mean(axis=(-2, -1))
    return y


def adaptive_avg_pool2d_backward(dy: ArrayLike, input_size: Sequence[int]) -> NDArray[np.float64]:
    dy = np.asarray(dy, np.float64)
    dx = np.zeros(input_size)
    for cell, window in adaptive_cells(input_size[-2:], dy.shape[-2:]):
        rows, columns = dx[window].shape[-2:]
        dx[window] += dy[cell][..., None, None] / (rows * columns)
    return dx
