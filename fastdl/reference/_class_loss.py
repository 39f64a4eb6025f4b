"""What nll_loss and cross_entropy share: the class dim, class indices and the reduction."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_dim(x: NDArray[np.float64]) -> int:
    return 0 if x.ndim == 1 else 1


def class_weights(weight: ArrayLike | None, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights of the classes (ones by default), shaped to broadcast against x."""
    classes = x.shape[class_dim(x)]
    weight = np.ones(classes) if weight is None else np.asarray(weight, np.float64)
    return weight.reshape(classes, *[1] * (x.ndim - class_dim(x) - 1))


def one_hot(target: ArrayLike, x: NDArray[np.float64], ignore_index: int) -> NDArray[np.bool_]:
    """Where x is the entry of its sample's class; nowhere in an ignored sample."""
    target = np.expand_dims(np.asarray(target), class_dim(x))
    kept = target != ignore_index
    classes = x.shape[class_dim(x)]
    if np.any(kept & ((target < 0) | (target >= classes))):
        raise ValueError(f"target holds a class outside 0..{classes - 1}")
    index = np.arange(classes).reshape(class_weights(None, x).shape)
    return np.asarray(kept & (target == index))


def reduce_loss(loss: NDArray[np.float64], reduction: str, total: float) -> NDArray[np.float64]:
    """The losses of the samples, their sum, or their sum over total."""
    if reduction == "none":
        return loss
    return np.asarray(np.sum(loss) / (total if reduction == "mean" else 1))


def reduce_loss_backward(
    dy: ArrayLike, x: NDArray[np.float64], reduction: str, total: float
) -> NDArray[np.float64]:
    """The gradient of each sample's loss, shaped to broadcast against x."""
    dy = np.asarray(dy, np.float64)
    if reduction == "none":
        return np.expand_dims(dy, class_dim(x))
    return np.asarray(dy / (total if reduction == "mean" else 1))
