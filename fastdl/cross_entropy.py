"""cross_entropy: the cross entropy of softmax(x) and a target, forward and backward."""

from collections.abc import Collection, Sequence
from typing import Any

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def cross_entropy(
    x: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Cross entropy of the softmax of x, over its classes, and a target.

    loss_n = -sum_c weight_c * q_nc * log p_nc with p = softmax(x) and q = (1 - s) * target + s / C
    for label_smoothing s; a class index t stands for the target that is 1 at t. No log p is stored.
    The semantics are those of `torch.nn.functional.cross_entropy
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.cross_entropy.html>`_. What
    follows weight must be passed by name, as torch has deprecated arguments (size_average, reduce)
    in between, which are left out here.

    "sum" adds the losses; "mean" divides the sum by the number of samples for probabilities, and by
    the sum of weight[t_n] over the samples that are not ignored for class indices.

    Parameters
    ----------
    x : 16-, 32- or 64-bit float array (C,), (N, C) or (N, C, d1, ...).
    target : class indices of any integer dtype, in x's shape without C; or probabilities, of x's
        shape and dtype.
    weight : array (C,) of x's dtype; ones by default.
    ignore_index : samples whose class index this is have loss 0 and do not count in the mean.
    reduction : "none", "mean" or "sum".
    label_smoothing : from 0 to 1.

    Returns
    -------
    A NumPy scalar, or with "none" an array of x's shape without C. The mean of nothing is NaN.

    Raises
    ------
    TypeError : x is no float array, weight or probabilities are of another dtype.
    ValueError : shapes do not fit; a class is out of range; label_smoothing is; an unknown
        reduction; a class to ignore (not negative) where target holds probabilities. On a GPU,
        where nothing is read back, a class out of range makes NaN instead: the loss of its sample,
        or the reduced one, and the gradient of its sample; with "mean" all gradients.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> x = np.log([[0.5, 0.5], [0.2, 0.8]])
    >>> fastdl.cross_entropy(x, np.array([0, 1]), reduction="none").round(3)
    array([0.693, 0.223])
    """
    loss = _core.cross_entropy_forward(x, target, weight, ignore_index, reduction, label_smoothing)
    return loss if loss.ndim else loss[()]


def cross_entropy_backward(
    dy: Array,
    x: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    output_mask: Sequence[bool] = (True, True),
) -> tuple[Array | None, Array | None]:
    """Gradients of :func:`cross_entropy`.

    dx_nc = dloss_n * (p_nc * sum_j weight_j q_nj - weight_c q_nc) and, for probabilities,
    dtarget_nc = -(1 - s) * weight_c * log p_nc * dloss_n, where dloss_n is dy (divided by what
    "mean" divides by).

    Parameters
    ----------
    dy : gradient of the result: a NumPy scalar, or with "none" an array of the losses' shape.
    x, target, weight, ignore_index, reduction, label_smoothing : what :func:`cross_entropy` was
        given.
    output_mask : which of the two gradients to compute.

    Returns
    -------
    dx, dtarget, of x's shape and dtype; None where the mask says so, and dtarget also for class
    indices.

    Raises
    ------
    TypeError, ValueError : as :func:`cross_entropy`; dtype or shape of dy does not fit.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.cross_entropy_backward(np.float64(1), np.zeros((2, 2)), np.array([0, 1]))[0]
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    return _core.cross_entropy_backward(
        dy, x, target, weight, ignore_index, reduction, label_smoothing, output_mask
    )


@vjp_rule(cross_entropy)
def _cross_entropy_vjp(x: Array, target: Array, weight: Array | None = None, **options: Any) -> VJP:
    loss = cross_entropy(x, target, weight, **options)
    probabilities = target.dtype.kind not in "iu"

    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        mask = ("x" in wrt, "target" in wrt and probabilities)
        grads = cross_entropy_backward(dy, x, target, weight, **options, output_mask=mask)
        return dict(zip(("x", "target"), grads, strict=True))

    return loss, pullback
