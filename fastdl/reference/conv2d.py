"""y[n, o, p, q] = bias[o] + sum_{c, i, j} weight[o, c, i, j] * x[n, c, p*s + i*d, q*s + j*d].

x is zero-padded, s is the stride, d the dilation; c runs over the input channels of o's group.
Written as one matrix product (output channels, input channels) @ (input channels, outputs) for each
tap (i, j), groups and batch in front; backward is the transposed product of each.
``padding="same"`` puts the odd element of the padding on the right and at the bottom.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._window import IntOrPair, conv_windows
from fastdl.reference.linear import ACTIVATIONS


@np.errstate(invalid="ignore")
def conv2d_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: ArrayLike | None = None,
) -> NDArray[np.float64]:
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    windows = conv_windows(x.shape[-2:], weight.shape[-2:], stride, padding, dilation)
    padded = windows.pad(x)
    y = np.zeros((*x.shape[:-3], weight.shape[0], *windows.output))
    for i, j, under in windows.taps():
        product = _split(weight[..., i, j], groups) @ _flatten(padded[under], groups)
        y += product.reshape(y.shape)
    if bias is not None:
        y += np.asarray(bias, np.float64)[:, None, None]
    if residual is not None:
        y += np.asarray(residual, np.float64)
    return ACTIVATIONS[activation](y)


@np.errstate(invalid="ignore")
def conv2d_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    output_mask: Sequence[bool] = (True,) * 3,
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.float64] | None]:
    dy, x, weight = (np.asarray(a, np.float64) for a in (dy, x, weight))
    windows = conv_windows(x.shape[-2:], weight.shape[-2:], stride, padding, dilation)
    padded = windows.pad(x)
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    dy_flat = _flatten(dy, groups)
    for i, j, under in windows.taps():
        x_flat, w = _flatten(padded[under], groups), _split(weight[..., i, j], groups)
        dpadded[under] += (w.swapaxes(-1, -2) @ dy_flat).reshape(padded[under].shape)
        dw = dy_flat @ x_flat.swapaxes(-1, -2)
        dweight[..., i, j] = _sum_batch(dw, 3).reshape(weight.shape[:2])
    return (
        windows.unpad(dpadded) if output_mask[0] else None,
        dweight if output_mask[1] else None,
        _sum_batch(dy.sum(axis=(-2, -1)), 1) if output_mask[2] else None,
    )


def _split(weight: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """(O, C/G) to (G, O/G, C/G)."""
    out_channels, in_channels = weight.shape
    return weight.reshape(groups, out_channels // groups, in_channels)


def _flatten(x: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """(N, C, H, W) or (C, H, W) to ([N,] G, C/G, H*W)."""
    *batch, channels, height, width = x.shape
    return x.reshape(*batch, groups, channels // groups, height * width)


def _sum_batch(x: NDArray[np.float64], dims: int) -> NDArray[np.float64]:
    """Sums away what stands before the last ``dims`` axes."""
    return np.asarray(x.sum(axis=tuple(range(x.ndim - dims))))
