"""loss_n = -sum_c weight_c * q_nc * log p_nc,  p = softmax(x),  over the class dim of x.

x is (C,), (N, C) or (N, C, d1, ...). target is either probabilities q in the shape of x, or class
indices t without the class dim, where q is 1 at t and 0 elsewhere. label_smoothing s replaces q
by (1 - s) * q + s / C. "sum" adds the losses; "mean" divides the sum

- for probabilities by the number of samples, whatever the weights,
- for class indices by sum_n weight[t_n] over the samples whose t_n is not ignore_index
  (ignored samples have loss 0; if all are ignored, or there are none, 0 / 0 = NaN).

Backward, with g_nc = -weight_c * q_nc * dloss_n the gradient of log p:
dx = g - p * sum_c g_c;  dtarget_nc = -(1 - s) * weight_c * log p_nc * dloss_n.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference._class_loss import (
    class_dim,
    class_weights,
    one_hot,
    reduce_loss,
    reduce_loss_backward,
)
from fastdl.reference.log_softmax import log_softmax_backward, log_softmax_forward


@np.errstate(divide="ignore", invalid="ignore")
def cross_entropy_forward(
    x: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    weight = class_weights(weight, x)
    q, used, total = _distribution(x, target, weight, ignore_index, label_smoothing)
    log_p = log_softmax_forward(x, class_dim(x))
    loss = np.sum(np.where(used, -weight * q * log_p, 0), axis=class_dim(x))
    return reduce_loss(loss, reduction, total)


@np.errstate(divide="ignore", invalid="ignore")
def cross_entropy_backward(
    dy: ArrayLike,
    x: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    output_mask: tuple[bool, bool] = (True, True),
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """(dx, dtarget); dtarget is None for class indices."""
    x = np.asarray(x, np.float64)
    weight = class_weights(weight, x)
    q, used, total = _distribution(x, target, weight, ignore_index, label_smoothing)
    log_p = log_softmax_forward(x, class_dim(x))
    dloss = reduce_loss_backward(dy, x, reduction, total)
    dx = dtarget = None
    if output_mask[0]:
        g = np.where(used, -weight * q * dloss, 0)
        dx = log_softmax_backward(g, log_p, class_dim(x))
    if output_mask[1] and np.shape(target) == x.shape:
        dtarget = -(1 - label_smoothing) * weight * log_p * dloss
    return dx, dtarget


def _distribution(
    x: NDArray[np.float64],
    target: ArrayLike,
    weight: NDArray[np.float64],
    ignore_index: int,
    label_smoothing: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """q, where it enters the loss (a class index excludes even log p = -inf elsewhere), and
    the denominator of the mean."""
    classes = x.shape[class_dim(x)]
    smooth = np.divide(label_smoothing, classes)
    if np.shape(target) == x.shape:
        q = (1 - label_smoothing) * np.asarray(target, np.float64) + smooth
        return q, np.ones(x.shape, np.bool_), np.divide(x.size, classes)
    selected = one_hot(target, x, ignore_index)
    kept = np.any(selected, axis=class_dim(x), keepdims=True)
    q = (1 - label_smoothing) * selected + smooth * kept
    return q, q != 0, float(np.sum(np.where(selected, weight, 0)))
