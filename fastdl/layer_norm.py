"""layer_norm: normalise over the last dimensions, forward and backward."""

from collections.abc import Collection, Sequence
from operator import index
from typing import SupportsIndex

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def layer_norm(
    x: Array,
    normalized_shape: SupportsIndex | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    out: Array | None = None,
) -> Array:
    """Layer normalisation over the last dimensions (Ba, Kiros, Hinton 2016).

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance (divided by the count)
    over the dimensions of normalized_shape; the semantics of `torch.nn.functional.layer_norm
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.layer_norm.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array whose shape ends in normalized_shape.
    normalized_shape : the sizes of the last dimensions, at least one; a single one may be an int.
    weight, bias : arrays of shape normalized_shape and x's dtype; ones and zeros by default.
        May be float32 beside a 16-bit x.
    eps : added to the variance.
    out : array of the result's shape and dtype to put it into; must not overlap the inputs.

    Returns
    -------
    Array of x's shape. A row that holds NaN or inf is NaN.

    Raises
    ------
    TypeError : an array is no float array, or their dtypes differ.
    ValueError : a shape does not fit normalized_shape, or that is empty; out is read-only, overlaps
        an input or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.layer_norm(np.array([[1.0, 3.0], [5.0, 5.0]]), 2, eps=0.1).round(3)
    array([[-0.953,  0.953],
           [ 0.   ,  0.   ]])
    """
    y: Array = _core.layer_norm_forward(x, _shape(normalized_shape), weight, bias, eps, out)[0]
    return y


def layer_norm_forward(
    x: Array,
    normalized_shape: SupportsIndex | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """:func:`layer_norm` with what its backward needs.

    Parameters and errors are those of :func:`layer_norm`.

    Returns
    -------
    y : the result, of x's shape.
    mean, rstd : the mean and 1 / sqrt(var + eps) of every row, of the shape of x's leading
        dimensions and x's dtype, or float32 beside a 16-bit x.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> y, mean, rstd = fastdl.layer_norm_forward(np.array([[1.0, 3.0]]), 2, eps=0.0)
    >>> y, mean, rstd
    (array([[-1.,  1.]]), array([2.]), array([1.]))
    """
    return _core.layer_norm_forward(x, _shape(normalized_shape), weight, bias, eps)


def layer_norm_backward(
    dy: Array,
    x: Array,
    normalized_shape: SupportsIndex | Sequence[int],
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    output_mask: Sequence[bool] = (True, True, True),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`layer_norm`.

    With xhat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xhat * mean(g *
    xhat)) with means over the row; dweight = sum(dy * xhat) and dbias = sum(dy) over the rows.

    Parameters
    ----------
    dy : gradient of the result, of x's shape and dtype.
    x, normalized_shape, weight : what :func:`layer_norm_forward` was given.
    mean, rstd : what it returned.
    output_mask : which of the three gradients to compute.

    Returns
    -------
    dx, dweight, dbias, None where the mask says so.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.array([[1.0, 3.0]])
    >>> y, mean, rstd = fastdl.layer_norm_forward(x, 2, eps=0.0)
    >>> fastdl.layer_norm_backward(np.array([[1.0, 2.0]]), x, 2, mean, rstd)
    (array([[0., 0.]]), array([-1.,  2.]), array([1., 2.]))
    """
    shape = _shape(normalized_shape)
    return _core.layer_norm_backward(dy, x, shape, mean, rstd, weight, output_mask)


def _shape(normalized_shape: SupportsIndex | Sequence[int]) -> tuple[int, ...]:
    # A tuple, the usual case, first: a test for SupportsIndex takes 5 us.
    if not isinstance(normalized_shape, tuple) and isinstance(normalized_shape, SupportsIndex):
        return (index(normalized_shape),)
    return tuple(map(index, normalized_shape))


@vjp_rule(layer_norm)
def _layer_norm_vjp(
    x: Array,
    normalized_shape: SupportsIndex | Sequence[int],
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
) -> VJP:
    y, mean, rstd = layer_norm_forward(x, normalized_shape, weight, bias, eps)

    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        names = ("x", "weight", "bias")
        mask = [name in wrt for name in names]
        grads = layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight, mask)
        return dict(zip(names, grads, strict=True))

    return y, pullback
