"""adaptive_max_pool2d, forward and backward."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def adaptive_max_pool2d(
    x: Array, output_size: int | Sequence[int | None], return_indices: bool = False
) -> Any:
    """The largest element of as many windows as the output is to have elements.

    y[n, c, i, j] is the largest element of x[n, c] in the rows floor(i H / Ho) to ceil((i + 1) H /
    Ho) and columns likewise: windows that tile the plane where its size is divisible, and overlap
    where it is not; the semantics of `torch.nn.functional.adaptive_max_pool2d
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.adaptive_max_pool2d.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (N, C, H, W) or (C, H, W), empty only in its first dimension.
    output_size : Ho and Wo, one int for both, or a pair in which None keeps the size of x.
    return_indices : return the positions of the maxima as well.

    Returns
    -------
    y : (N, C, Ho, Wo) or (C, Ho, Wo), NaN where a window holds NaN.
    indices : only with return_indices: int64 array of y's shape, positions h W + w in the plane. Of
        equal elements the first is taken, of several NaN the last.

    Raises
    ------
    TypeError : x is no float array, or a size is no int.
    ValueError : x or a size is out of range.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.adaptive_max_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (None, 2), return_indices=True)
    (array([[[2., 6.]]]), array([[[1, 2]]]))
    """
    if return_indices:
        return _core.adaptive_max_pool2d_forward(x, output_size)
    return _core.adaptive_max_pool2d(x, output_size)


def adaptive_max_pool2d_backward(dy: Array, indices: Array, input_size: Sequence[int]) -> Array:
    """Gradient of :func:`adaptive_max_pool2d`: dx collects dy at the positions of the maxima.

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype; empty only in its first dimension.
    indices : the indices that ``adaptive_max_pool2d(..., return_indices=True)`` returned.
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
    >>> indices = np.array([[[1, 2]]])
    >>> fastdl.adaptive_max_pool2d_backward(np.array([[[2.0, 4.0]]]), indices, (1, 1, 3))
    array([[[0., 2., 4.]]])
    """
    return _core.adaptive_max_pool2d_backward(dy, indices, input_size)


@vjp_rule(adaptive_max_pool2d)
def _adaptive_max_pool2d_vjp(
    x: Array, output_size: int | Sequence[int | None], return_indices: bool = False
) -> VJP:
    if return_indices:
        y, indices = _core.adaptive_max_pool2d_forward(x, output_size)
        return (y, indices), lambda dy, _: {"x": adaptive_max_pool2d_backward(dy, indices, x.shape)}
    y, saved = _core.adaptive_max_pool2d_saved(x, output_size)
    if saved.dtype != np.uint8:
        return y, lambda dy, _: {"x": adaptive_max_pool2d_backward(dy, saved, x.shape)}
    return y, lambda dy, _: {"x": _core.adaptive_max_pool2d_backward_codes(dy, saved, x.shape)}
