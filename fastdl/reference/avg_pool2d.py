"""y = the sum of each window over the zero-padded x, divided by a count of its elements.

The count is ``divisor_override`` if given; else the part of the window inside x and, with
``count_include_pad``, inside its padding. What ceil_mode adds behind the padding never counts.
Backward: every element collects dy / count of the windows it lies in.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._window import IntOrPair, Windows, pool_windows


@np.errstate(invalid="ignore")
def avg_pool2d_forward(
    x: ArrayLike,
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    windows = pool_windows(x.shape[-2:], kernel_size, stride, padding, 1, ceil_mode)
    padded = windows.pad(x)
    y = np.zeros((*x.shape[:-2], *windows.output))
    for _, _, under in windows.taps():
        y += padded[under]
    return y / (divisor_override or _count(windows, x.shape[-2:], count_include_pad))


def avg_pool2d_backward(
    dy: ArrayLike,
    input_size: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> NDArray[np.float64]:
    windows = pool_windows(input_size[-2:], kernel_size, stride, padding, 1, ceil_mode)
    divisor = divisor_override or _count(windows, input_size[-2:], count_include_pad)
    share = np.asarray(dy, np.float64) / divisor
    dpadded = windows.pad(np.zeros(input_size))
    for _, _, under in windows.taps():
        dpadded[under] += share
    return windows.unpad(dpadded)


def _count(windows: Windows, plane: Sequence[int], count_include_pad: bool) -> NDArray[np.int64]:
    extents = []
    for axis, size in enumerate(plane):
        margin = windows.before[axis] if count_include_pad else 0
        start = np.arange(windows.output[axis]) * windows.stride[axis] - windows.before[axis]
        end = np.minimum(start + windows.kernel[axis], size + margin)
        extents.append(end - np.maximum(start, -margin))
    return np.asarray(np.multiply.outer(*extents))
