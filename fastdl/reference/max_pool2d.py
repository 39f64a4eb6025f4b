"""y = the largest element of each window, with its position h*W + w in the plane.

Of equal elements the first is taken; a NaN beats every number, and of several NaN the last one is
taken, as in torch. Padding never wins, not even in a window of -inf. A window of nothing but
padding, which dilation makes possible, is -inf with position -1 and passes no gradient (torch gives
it a position outside the window, and its backward writes there).
Backward: dx collects dy at the positions.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._window import IntOrPair, pool_windows


def max_pool2d_forward(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    x = np.asarray(x, np.float64)
    *planes, height, width = x.shape
    windows = pool_windows((height, width), kernel_size, stride, padding, dilation, ceil_mode)
    padded = windows.pad(x)
    positions = windows.pad(np.arange(height * width).reshape(height, width), -1)
    y = np.full((*planes, *windows.output), -np.inf)
    indices = np.full(y.shape, -1)
    for _, _, under in windows.taps():
        value, position = padded[under], positions[under]
        wins = (position >= 0) & ((value > y) | np.isnan(value) | (indices < 0))
        y = np.where(wins, value, y)
        indices = np.where(wins, position, indices)
    return y, indices


def max_pool2d_backward(
    dy: ArrayLike, indices: ArrayLike, input_size: Sequence[int]
) -> NDArray[np.float64]:
    dy, indices = np.asarray(dy, np.float64), np.asarray(indices, np.int64)
    *planes, height, width = input_size
    dx = np.zeros((math.prod(planes), height * width))
    dy, indices = (a.reshape(len(dx), math.prod(a.shape[-2:])) for a in (dy, indices))
    plane, window = np.nonzero(indices >= 0)
    np.add.at(dx, (plane, indices[plane, window]), dy[plane, window])
    return dx.reshape(input_size)
