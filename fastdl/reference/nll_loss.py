"""loss_n = -weight[t_n] * x[n, t_n];  "sum" adds them, "mean" divides that by sum_n weight[t_n].

x is (C,), (N, C) or (N, C, d1, ...), usually log-probabilities, and target holds the class indices
t without the class dim. Where t is ignore_index the loss is 0 and the sum of weights leaves it out;
if all are ignored, or there are none, the mean is 0 / 0 = NaN.

Backward: dx[n, t_n] = -weight[t_n] * dloss_n, with dloss_n = dy / sum_n weight[t_n] for "mean".
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


@np.errstate(divide="ignore", invalid="ignore")
def nll_loss_forward(
    x: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    selected = one_hot(target, x, ignore_index)
    weight = class_weights(weight, x)
    loss = np.sum(np.where(selected, -weight * x, 0), axis=class_dim(x))
    return reduce_loss(loss, reduction, np.sum(np.where(selected, weight, 0)))


@np.errstate(divide="ignore", invalid="ignore")
def nll_loss_backward(
    dy: ArrayLike,
    x: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    selected = one_hot(target, x, ignore_index)
    weight = class_weights(weight, x)
    dloss = reduce_loss_backward(dy, x, reduction, np.sum(np.where(selected, weight, 0)))
    return np.where(selected, -weight * dloss, 0)
