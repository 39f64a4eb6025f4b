"""dropout, forward and backward."""

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array, RngState
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def dropout(
    x: Array,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    out: Array | None = None,
) -> Array:
    """Set each element to 0 with probability p, and scale the others by 1 / (1 - p).

    The semantics of `torch.nn.functional.dropout
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.dropout.html>`_; the random
    numbers are those of Philox4x32-10 (Salmon et al., SC11) from :func:`fastdl.get_rng_state`, the
    same on every machine and for any number of threads.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array of any shape.
    p : the probability of 0; p = 1 drops everything.
    training : if false the result is a copy of x (x itself with inplace), and no random numbers are
        taken; so too for p = 0.
    inplace : write the result into x and return x.
    out : array of x's shape and dtype to put the result into; must not overlap x.

    Returns
    -------
    Array of x's shape. It is a product, so a NaN or infinity that is dropped gives NaN.

    Raises
    ------
    TypeError : x is no float array.
    ValueError : p is not in [0, 1]; x with inplace, or out, is read-only; out overlaps x or has
        another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.manual_seed(0)
    >>> fastdl.dropout(np.ones(6), p=0.5)
    array([0., 2., 2., 2., 2., 0.])
    """
    y: Array = _core.dropout_forward(x, p, training, inplace, out)[0]
    return y


def dropout_forward(x: Array, p: float = 0.5) -> tuple[Array, RngState]:
    """:func:`dropout` in training, with what :func:`dropout_backward` needs.

    Returns
    -------
    y : array of x's shape and dtype.
    rng_state : (seed, offset) of the random numbers that y was made with.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.manual_seed(0)
    >>> fastdl.dropout_forward(np.ones(6))
    (array([0., 2., 2., 2., 2., 0.]), (0, 0))
    """
    y, rng_state = _core.dropout_forward(x, p)
    return y, rng_state


def dropout_backward(dy: Array, p: float, rng_state: RngState) -> Array:
    """Gradient of :func:`dropout`: dx_i = dy_i / (1 - p) where x_i was kept, else 0 dy_i.

    Parameters
    ----------
    dy : 16-, 32- or 64-bit float array, gradient of the result.
    p : the probability forward was called with.
    rng_state : what :func:`dropout_forward` returned.

    Returns
    -------
    dx, the gradient of x, of dy's shape and dtype.

    Raises
    ------
    TypeError : dy is no float array, or rng_state no pair of integers of [0, 2^64).
    ValueError : p is not in [0, 1].

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.dropout_backward(np.ones(6), 0.5, (0, 0))
    array([0., 2., 2., 2., 2., 0.])
    """
    return _core.dropout_backward(dy, p, rng_state)


@vjp_rule(dropout)
def _dropout_vjp(x: Array, p: float = 0.5, training: bool = True) -> VJP:
    y, rng_state = _core.dropout_forward(x, p, training)
    p = p if training else 0.0
    return y, lambda dy, _: {"x": dropout_backward(dy, p, rng_state)}
