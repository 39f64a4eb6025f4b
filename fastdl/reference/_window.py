"""The windows that convolution and pooling slide over (..., H, W). Pairs are (height, width)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
IntOrPair = int | Sequence[int]
PlaneIndex = tuple[EllipsisType, slice, slice]
CellIndex = tuple[EllipsisType, int, int]
Scalar = TypeVar("Scalar", np.float64, np.int64)


def pair(value: IntOrPair) -> Pair:
    height, width = np.broadcast_to(value, 2)
    return int(height), int(width)


@dataclass(frozen=True)
class Windows:
    """Window o covers the padded elements o * stride + tap * dilation, one for each tap."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair  # padding above and to the left
    after: Pair  # padding below and to the right
    output: Pair

    def pad(self, x: NDArray[Scalar], value: int = 0) -> NDArray[Scalar]:
        widths = [(0, 0)] * (x.ndim - 2) + list(zip(self.before, self.after, strict=True))
        return np.pad(x, widths, constant_values=value)

    def unpad(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        height, width = x.shape[-2:]
        (top, left), (bottom, right) = self.before, self.after
        return x[..., top : height - bottom, left : width - right]

    def taps(self) -> Iterator[tuple[int, int, PlaneIndex]]:
        """Each tap (i, j) with the elements of the padded plane under it, one for each window."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield i, j, (..., self._under(0, i), self._under(1, j))

    def _under(self, axis: int, tap: int) -> slice:
        first = tap * self.dilation[axis]
        last = first + (self.output[axis] - 1) * self.stride[axis]
        return slice(first, last + 1, self.stride[axis])


def conv_windows(
    plane: Sequence[int],
    kernel: Sequence[int],
    stride: IntOrPair,
    padding: IntOrPair | str,
    dilation: IntOrPair,
) -> Windows:
    kernel, stride, dilation = pair(kernel), pair(stride), pair(dilation)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"[conv2d] padding='same' needs stride 1, got stride={stride}")
        before = pair([r // 2 for r in reach])
        after = pair([r - b for r, b in zip(reach, before, strict=True)])
    else:
        before = after = pair(0 if isinstance(padding, str) else padding)
    output = pair(
        [(plane[i] + before[i] + after[i] - reach[i] - 1) // stride[i] + 1 for i in (0, 1)]
    )
    return Windows(kernel, stride, dilation, before, after, output)


def pool_windows(
    plane: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair | None,
    padding: IntOrPair,
    dilation: IntOrPair,
    ceil_mode: bool,
) -> Windows:
    kernel, padding, dilation = pair(kernel_size), pair(padding), pair(dilation)
    stride = kernel if stride is None else pair(stride)
    output, after = [], []
    for size, k, s, p, d in zip(plane, kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1)
        last = (size + 2 * p - reach - 1 + (s - 1 if ceil_mode else 0)) // s
        if ceil_mode and last * s >= size + p:  # a window must start before the right padding
            last -= 1
        output.append(last + 1)
        after.append(max(0, last * s + reach + 1 - size - p))
    return Windows(kernel, stride, dilation, padding, pair(after), pair(output))


def adaptive_output(plane: Sequence[int], output_size: int | Sequence[int | None]) -> Pair:
    wanted = (output_size, output_size) if isinstance(output_size, int) else output_size
    return pair([size if w is None else w for size, w in zip(plane, wanted, strict=True)])


def adaptive_cells(plane: Sequence[int], output: Pair) -> Iterator[tuple[CellIndex, PlaneIndex]]:
    """Each output (i, j) with its window: rows floor(i * H / Ho) to ceil((i + 1) * H / Ho)."""
    rows, columns = (
        [slice(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        for size, out in zip(plane, output, strict=True)
    )
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            yield (..., i, j), (..., row, column)
