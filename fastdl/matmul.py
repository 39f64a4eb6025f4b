"""matmul: the product of matrices, of vectors and of batches of them, forward and backward."""

from collections.abc import Collection, Sequence

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def matmul(x: Array, other: Array, *, out: Array | None = None) -> Array:
    """Matrix product.

    y[..., m, n] = sum_k x[..., m, k] other[..., k, n], the leading dimensions broadcast; the
    semantics of `torch.matmul
    <https://docs.pytorch.org/docs/2.13/generated/torch.matmul.html>`_.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (..., M, K), or (K,) for one row.
    other : array (..., K, N), or (K,) for one column, of x's dtype.
    out : array of the result's shape and dtype to put it into; must not overlap x or other.

    Returns
    -------
    Array (..., M, N), without M if x is a row and without N if other is a column; zeros if K = 0.

    Raises
    ------
    TypeError : x or other is no float array, or their dtypes differ.
    ValueError : an array has no dimension, K differs, the leading dimensions do not broadcast; out
        is read-only, overlaps x or other or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.matmul(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    return _core.matmul_forward(x, other, out)


def matmul_backward(
    dy: Array, x: Array, other: Array, output_mask: Sequence[bool] = (True, True)
) -> tuple[Array | None, Array | None]:
    """Gradients of :func:`matmul`.

    dx = dy other^T and dother = x^T dy, each summed over the dimensions that were broadcast.

    Parameters
    ----------
    dy : gradient of the result, of its shape and dtype.
    x, other : what :func:`matmul` was given.
    output_mask : which of the two gradients to compute.

    Returns
    -------
    dx, dother : of the shapes of x and other, None where the mask says so.

    Raises
    ------
    TypeError, ValueError : dtypes or shapes do not fit each other.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x, other = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]])
    >>> fastdl.matmul_backward(np.array([[1.0]]), x, other, output_mask=(True, False))
    (array([[3., 4.]]), None)
    """
    return _core.matmul_backward(dy, x, other, output_mask)


@vjp_rule(matmul)
def _matmul_vjp(x: Array, other: Array) -> VJP:
    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        mask = ("x" in wrt, "other" in wrt)
        return dict(zip(("x", "other"), matmul_backward(dy, x, other, mask), strict=True))

    return matmul(x, other), pullback
