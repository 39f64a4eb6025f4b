"""nll_loss: the negative log-likelihood of classes, forward and backward."""

from typing import Any

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def nll_loss(
    x: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Negative log-likelihood loss of log-probabilities x.

    loss_n = -weight[t_n] * x[n, t_n]; "sum" adds the losses, "mean" divides the sum by that of
    weight[t_n]; the semantics of `torch.nn.functional.nll_loss
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.nll_loss.html>`_. What follows
    weight must be passed by name, as torch has deprecated arguments (size_average, reduce) in
    between, which are left out here.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (C,), (N, C) or (N, C, d1, ...).
    target : class indices of any integer dtype, in x's shape without C.
    weight : array (C,) of x's dtype; ones by default.
    ignore_index : samples whose target this is have loss 0 and do not count in the mean.
    reduction : "none", "mean" or "sum".

    Returns
    -------
    A NumPy scalar, or with "none" an array of target's shape. The mean of nothing is NaN.

    Raises
    ------
    TypeError : x is no float array, weight is of another dtype, or target is not integer.
    ValueError : shapes do not fit; a class is out of range; an unknown reduction. On a GPU, where
        nothing is read back, a class out of range makes NaN instead: the loss of its sample, or the
        reduced one. The gradient of its sample is 0; with "mean" those of all others are NaN.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.log([[0.5, 0.5], [0.2, 0.8]])
    >>> fastdl.nll_loss(x, np.array([0, 1]), reduction="none").round(3)
    array([0.693, 0.223])
    """
    loss = _core.nll_loss_forward(x, target, weight, ignore_index, reduction)
    return loss if loss.ndim else loss[()]


def nll_loss_backward(
    dy: Array,
    x: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Array:
    """Gradient of :func:`nll_loss`: dx[n, t_n] = -weight[t_n] * dloss_n, and 0 elsewhere.

    dloss_n is dy (divided by the sum of the weights for "mean").

    Parameters
    ----------
    dy : gradient of the result: a NumPy scalar, or with "none" an array of target's shape.
    x, target, weight, ignore_index, reduction : what :func:`nll_loss` was given.

    Returns
    -------
    dx, of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError : as :func:`nll_loss`; dtype or shape of dy does not fit.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.nll_loss_backward(np.float64(1), np.zeros((2, 2)), np.array([0, 1]))
    array([[-0.5,  0. ],
           [ 0. , -0.5]])
    """
    return _core.nll_loss_backward(dy, x, target, weight, ignore_index, reduction)


@vjp_rule(nll_loss)
def _nll_loss_vjp(x: Array, target: Array, weight: Array | None = None, **options: Any) -> VJP:
    loss = nll_loss(x, target, weight, **options)
    return loss, lambda dy, _: {"x": nll_loss_backward(dy, x, target, weight, **options)}
