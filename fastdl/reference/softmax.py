"""softmax(x)_i = exp(x_i - m) / sum_j exp(x_j - m),  m = max_j x_j,  along ``dim``.

Backward: dx_i = y_i * (dy_i - sum_j dy_j * y_j).
A slice that holds NaN or +inf, or nothing but -inf, is NaN.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(invalid="ignore")
def softmax_forward(x: ArrayLike, dim: int) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    exp = np.exp(x - np.max(x, axis=dim, keepdims=True, initial=-np.inf))
    return np.asarray(exp / np.sum(exp, axis=dim, keepdims=True))


@np.errstate(invalid="ignore")
def softmax_backward(dy: ArrayLike, y: ArrayLike, dim: int) -> NDArray[np.float64]:
    dy, y = np.asarray(dy, np.float64), np.asarray(y, np.float64)
    return np.asarray(y * (dy - np.sum(dy * y, axis=dim, keepdims=True)))
