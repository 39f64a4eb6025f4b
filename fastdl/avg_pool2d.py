"""avg_pool2d, forward and backward."""

from collections.abc import Sequence

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def avg_pool2d(
    x: Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """The mean of each window that slides over a plane.

    y[n, c, i, j] = 1 / count * sum over a, b of x[n, c, i stride - padding + a,
    j stride - padding + b], 0 <= a, b < kernel_size, with 0 outside x; the semantics of
    `torch.nn.functional.avg_pool2d
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.avg_pool2d.html>`_.
    Where one int stands for two, a pair is (height, width).

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C, H, W) or (C, H, W); only N may be 0.
    kernel_size : size of the window.
    stride : step from window to window; kernel_size if None.
    padding : zeros assumed around the plane; at most half of kernel_size.
    ceil_mode : keep a last window that reaches beyond the padding, if it starts before that.
    count_include_pad : count the padding in a window too; but never what ceil_mode adds behind it.
    divisor_override : divides every sum in place of the count; not 0.
    out : array of the result's shape and dtype to put y into; must not overlap x.

    Returns
    -------
    y : (N, C, Ho, Wo) or (C, Ho, Wo), Ho = (H + 2 padding - kernel_size) / stride + 1, the quotient
        rounded down or, with ceil_mode, up.

    Raises
    ------
    TypeError : x is no float array, or a size is no int.
    ValueError : a size is out of range, or leaves no window; out is read-only, overlaps x or has
        another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.array([[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 6.0, 7.0]]])
    >>> fastdl.avg_pool2d(x, 2)
    array([[[3.25, 3.75]]])
    """
    return _core.avg_pool2d_forward(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, out
    )


def avg_pool2d_backward(
    dy: Array,
    input_size: Sequence[int],
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """Gradient of :func:`avg_pool2d`: every element collects dy / count of the windows it lies in.

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    input_size : the shape of x.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override : as given to
        avg_pool2d.

    Returns
    -------
    dx, the gradient of x, of shape input_size and dy's dtype.

    Raises
    ------
    TypeError : dy is no float array, or a size is no int.
    ValueError : a size is out of range, or input_size is not pooled to dy's shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.avg_pool2d_backward(np.array([[[2.0, 4.0]]]), (1, 1, 5), (1, 2))
    array([[[1., 1., 2., 2., 0.]]])
    """
    return _core.avg_pool2d_backward(
        dy, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


@vjp_rule(avg_pool2d)
def _avg_pool2d_vjp(
    x: Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> VJP:
    options = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    y = avg_pool2d(x, *options)
    return y, lambda dy, _: {"x": avg_pool2d_backward(dy, x.shape, *options)}
