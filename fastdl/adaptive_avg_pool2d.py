"""adaptive_avg_pool2d, forward and backward."""

from collections.abc import Sequence

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def adaptive_avg_pool2d(
    x: Array, output_size: int | Sequence[int | None], *, out: Array | None = None
) -> Array:
    """The mean of as many windows as the output is to have elements.

    y[n, c, i, j] is the mean of x[n, c] over the rows floor(i H / Ho) to ceil((i + 1) H / Ho) and
    columns likewise: windows that tile the plane where its size is divisible, and overlap where it
    is not; the semantics of `torch.nn.functional.adaptive_avg_pool2d
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_avg_pool2d.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C, H, W) or (C, H, W); H and W must not be 0.
    output_size : Ho and Wo, one int for both, or a pair in which None keeps the size of x.
    out : array of the result's shape and dtype to put y into; must not overlap x.

    Returns
    -------
    y : (N, C, Ho, Wo) or (C, Ho, Wo).

    Raises
    ------
    TypeError : x is no float array, or a size is no int.
    ValueError : x or a size is out of range; out is read-only, overlaps x or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.adaptive_avg_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (None, 2))
    array([[[1.5, 4. ]]])
    """
    return _core.adaptive_avg_pool2d_forward(x, output_size, out)


def adaptive_avg_pool2d_backward(dy: Array, input_size: Sequence[int]) -> Array:
    """Gradient of :func:`adaptive_avg_pool2d`: each element collects dy / count of its windows.

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype; empty only in its first dimension.
    input_size : the shape of x.

    Returns
    -------
    dx, the gradient of x, of shape input_size and dy's dtype.

    Raises
    ------
    TypeError : dy is no float array, or a size is no int.
    ValueError : dy is empty, or the shapes do not belong together.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.adaptive_avg_pool2d_backward(np.array([[[2.0, 4.0]]]), (1, 1, 3))
    array([[[1., 3., 2.]]])
    """
    return _core.adaptive_avg_pool2d_backward(dy, input_size)


@vjp_rule(adaptive_avg_pool2d)
def _adaptive_avg_pool2d_vjp(x: Array, output_size: int | Sequence[int | None]) -> VJP:
    y = adaptive_avg_pool2d(x, output_size)
    return y, lambda dy, _: {"x": adaptive_avg_pool2d_backward(dy, x.shape)}
