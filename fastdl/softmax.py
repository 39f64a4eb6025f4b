"""softmax and log_softmax over one dimension, forward and backward."""

import warnings

import numpy as np

from fastdl import _core
from fastdl._tensors import is_array, takes_tensors
from fastdl._typing import Array, DTypeLike
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def softmax(
    x: Array, dim: int | None = None, dtype: DTypeLike | None = None, *, out: Array | None = None
) -> Array:
    """Softmax over one dimension.

    y_i = exp(x_i - m) / sum_j exp(x_j - m) with m = max_j x_j; the semantics of
    `torch.nn.functional.softmax
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.softmax.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array of any shape.
    dim : the dimension whose values sum to 1; negative counts from the end. Left out, torch's old
        rule holds (0 for an x of 0, 1 or 3 dimensions, else 1), with a warning.
    dtype : x is converted to it first, if given.
    out : array of the result's shape and dtype to put it into; must not overlap x.

    Returns
    -------
    Array of x's shape. A slice that holds NaN or +inf, or nothing but -inf, is NaN.

    Raises
    ------
    TypeError : x is no float array.
    ValueError : dim is out of range; out is read-only, overlaps x or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.softmax(np.array([[0.0, 0.0], [0.0, np.inf]]), dim=1)
    array([[0.5, 0.5],
           [nan, nan]])
    """
    return _core.softmax_forward(_converted(x, dtype), _implicit("softmax", x, dim), out)


def softmax_backward(dy: Array, y: Array, dim: int) -> Array:
    """Gradient of :func:`softmax`: dx_i = y_i (dy_i - sum_j dy_j y_j).

    Parameters
    ----------
    dy : gradient of the result y, of y's shape and dtype.
    y : what ``softmax(x, dim)`` returned.
    dim : the dimension that was summed over.

    Returns
    -------
    dx, the gradient of x, of y's shape and dtype.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes of dy and y differ, or dim is out of range.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]), dim=0)
    array([ 0.25, -0.25])
    """
    return _core.softmax_backward(dy, y, dim)


@takes_tensors
def log_softmax(
    x: Array, dim: int | None = None, dtype: DTypeLike | None = None, *, out: Array | None = None
) -> Array:
    """Logarithm of the softmax over one dimension, without its overflow and underflow.

    y_i = (x_i - m) - log sum_j exp(x_j - m) with m = max_j x_j; the semantics of
    `torch.nn.functional.log_softmax
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.log_softmax.html>`_.
    Parameters, result and errors are those of :func:`softmax`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.log_softmax(np.array([0.0, -1000.0]), dim=0)
    array([    0., -1000.])
    """
    return _core.log_softmax_forward(_converted(x, dtype), _implicit("log_softmax", x, dim), out)


def log_softmax_backward(dy: Array, y: Array, dim: int) -> Array:
    """Gradient of :func:`log_softmax`: dx_i = dy_i - exp(y_i) sum_j dy_j.

    Parameters, result and errors are those of :func:`softmax_backward`.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]), dim=0)
    array([ 0.5, -0.5])
    """
    return _core.log_softmax_backward(dy, y, dim)


def _converted(x: Array, dtype: DTypeLike | None) -> Array:
    return x if dtype is None else (x if is_array(x) else np.asarray(x)).astype(dtype, copy=False)


def _unconverted(dx: Array, x: Array, dtype: DTypeLike | None) -> Array:
    return dx if dtype is None else dx.astype(x.dtype)


def _implicit(op: str, x: Array, dim: int | None) -> int:
    if dim is not None:
        return dim
    warnings.warn(f"[{op}] the implicit choice of dim is deprecated; pass dim", stacklevel=3)
    return 0 if np.ndim(x) in (0, 1, 3) else 1


@vjp_rule(softmax)
def _softmax_vjp(x: Array, dim: int | None = None, dtype: DTypeLike | None = None) -> VJP:
    dim = _implicit("softmax", x, dim)
    y = softmax(x, dim, dtype)
    return y, lambda dy, _: {"x": _unconverted(softmax_backward(dy, y, dim), x, dtype)}


@vjp_rule(log_softmax)
def _log_softmax_vjp(x: Array, dim: int | None = None, dtype: DTypeLike | None = None) -> VJP:
    dim = _implicit("log_softmax", x, dim)
    y = log_softmax(x, dim, dtype)
    return y, lambda dy, _: {"x": _unconverted(log_softmax_backward(dy, y, dim), x, dtype)}
