"""log_softmax(x)_i = x_i - m - log sum_j exp(x_j - m),  m = max_j x_j,  along ``dim``.

Backward: dx_i = dy_i - exp(y_i) * sum_j dy_j.
A slice that holds NaN or +inf, or nothing but -inf, is NaN.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


@np.errstate(divide="ignore", invalid="ignore")
def log_softmax_forward(x: ArrayLike, dim: int) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    shifted = x - np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=dim, keepdims=True)))


@np.errstate(invalid="ignore")
def log_softmax_backward(dy: ArrayLike, y: ArrayLike, dim: int) -> NDArray[np.float64]:
    dy, y = np.asarray(dy, np.float64), np.asarray(y, np.float64)
    return np.asarray(dy - np.exp(y) * np.sum(dy, axis=dim, keepdims=True))
