"""max_pool2d, forward and backward."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def max_pool2d(
    x: Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    out: Array | None = None,
) -> Any:
    """The largest element of each window that slides over a plane.

    y[n, c, i, j] = max over a, b of x[n, c, i stride - padding + a dilation,
    j stride - padding + b dilation], 0 <= a, b < kernel_size; the semantics of
    `torch.nn.functional.max_pool2d
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.max_pool2d.html>`_.
    Where one int stands for two, a pair is (height, width).

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C, H, W) or (C, H, W); only N may be 0.
    kernel_size : size of the window.
    stride : step from window to window; kernel_size if None.
    padding : elements assumed around the plane, which never win; at most half of kernel_size.
    dilation : step from element to element within a window.
    ceil_mode : keep a last window that reaches beyond the padding, if it starts before that.
    return_indices : return the positions of the maxima as well.
    out : array of the result's shape and dtype to put y into; must not overlap x.

    Returns
    -------
    y : (N, C, Ho, Wo) or (C, Ho, Wo), NaN where a window holds NaN.
        Ho = (H + 2 padding - dilation (kernel_size - 1) - 1) / stride + 1, the quotient rounded
        down or, with ceil_mode, up.
    indices : only with return_indices: int64 array of y's shape, positions h W + w in the plane. Of
        equal elements the first is taken, of several NaN the last. A window of padding only, which
        dilation makes possible, is -inf with index -1 (torch gives it an index outside the window).

    Raises
    ------
    TypeError : x is no float array, or a size is no int.
    ValueError : a size is out of range, or leaves no window; out is read-only, overlaps x or has
        another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 6.0, 7.0]]])
    >>> fastdl.max_pool2d(x, 2)
    array([[[5., 7.]]])
    >>> fastdl.max_pool2d(x, 2, return_indices=True)[1]
    array([[[1, 7]]])
    """
    arguments = (x, kernel_size, stride, padding, dilation, ceil_mode, out)
    if return_indices:
        return _core.max_pool2d_forward(*arguments)
    return _core.max_pool2d(*arguments)


def max_pool2d_backward(dy: Array, indices: Array, input_size: Sequence[int]) -> Array:
    """Gradient of :func:`max_pool2d`: dx collects dy at the positions of the maxima.

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    indices : the indices that ``max_pool2d(..., return_indices=True)`` returned; where one is -1,
        dy goes nowhere.
    input_size : the shape of x.

    Returns
    -------
    dx, the gradient of x, of shape input_size and dy's dtype.

    Raises
    ------
    TypeError : dy is no float array, or indices are no integers.
    ValueError : the shapes do not belong together, or an index lies outside its plane.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.max_pool2d_backward(np.array([[[2.0]]]), np.array([[[1]]]), (1, 1, 3))
    array([[[0., 2., 0.]]])
    """
    return _core.max_pool2d_backward(dy, indices, input_size)


@vjp_rule(max_pool2d)
def _max_pool2d_vjp(
    x: Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> VJP:
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    if return_indices:
        y, indices = _core.max_pool2d_forward(x, *options)
        return (y, indices), lambda dy, _: {"x": max_pool2d_backward(dy, indices, x.shape)}
    y, saved = _core.max_pool2d_saved(x, *options)
    if saved.dtype != np.uint8:
        return y, lambda dy, _: {"x": max_pool2d_backward(dy, saved, x.shape)}
    return y, lambda dy, _: {"x": _core.max_pool2d_backward_codes(dy, saved, x.shape, *options)}
