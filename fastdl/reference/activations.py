"""The activations, each with its derivative as torch defines it at kinks and at NaN.

relu(x)       = max(x, 0)                                  relu'(0) = 0
relu6(x)      = min(max(x, 0), 6)                          relu6'(0) = relu6'(6) = 0
leaky_relu(x) = x if x > 0 else negative_slope * x         leaky_relu'(0) = negative_slope
elu(x)        = x if x >= 0 else alpha * (exp(x) - 1)      elu'(0) = alpha
sigmoid(x)    = 1 / (1 + exp(-x))                          y * (1 - y)
tanh(x)                                                    1 - y^2
silu(x)       = x * sigmoid(x)
gelu(x)       = x * Phi(x),  Phi(x) = erfc(-x / sqrt(2)) / 2, the normal distribution function
gelu(x)       = x * sigmoid(2 * u),  u = sqrt(2 / pi) * (x + 0.044715 * x^3),  approximate="tanh"

The last is x * (1 + tanh(u)) / 2 without the cancellation at negative x. Where x is -inf, silu and
gelu are -inf * 0 = NaN; where it is infinite, so are their derivatives.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_erfc = np.frompyfunc(math.erfc, 1, 1)


def relu_forward(x: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.where(x < 0, 0.0, x)


def relu_backward(dy: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return np.where(x <= 0, 0.0, dy)


def relu6_forward(x: ArrayLike) -> NDArray[np.float64]:
    return np.minimum(relu_forward(x), 6.0)


def relu6_backward(dy: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return np.where((x <= 0) | (x >= 6), 0.0, dy)


@np.errstate(invalid="ignore")
def leaky_relu_forward(x: ArrayLike, negative_slope: float = 0.01) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.where(x > 0, x, negative_slope * x)


@np.errstate(invalid="ignore")
def leaky_relu_backward(
    dy: ArrayLike, x: ArrayLike, negative_slope: float = 0.01
) -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return np.where(x > 0, dy, negative_slope * dy)


@np.errstate(invalid="ignore")
def elu_forward(x: ArrayLike, alpha: float = 1.0) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


@np.errstate(invalid="ignore")
def elu_backward(dy: ArrayLike, x: ArrayLike, alpha: float = 1.0) -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return np.where(x <= 0, dy * alpha * np.exp(np.minimum(x, 0)), dy)


def sigmoid_forward(x: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    exp = np.exp(-np.abs(x))  # never overflows
    return np.asarray(np.where(x >= 0, 1.0, exp) / (1 + exp))


@np.errstate(invalid="ignore")
def sigmoid_backward(dy: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    dy, y = np.asarray(dy, np.float64), np.asarray(y, np.float64)
    return np.asarray(dy * y * (1 - y))


def tanh_forward(x: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(np.tanh(np.asarray(x, np.float64)))


@np.errstate(invalid="ignore")
def tanh_backward(dy: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    dy, y = np.asarray(dy, np.float64), np.asarray(y, np.float64)
    return np.asarray(dy * (1 - y**2))


@np.errstate(invalid="ignore")
def silu_forward(x: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.asarray(x * sigmoid_forward(x))


@np.errstate(invalid="ignore")
def silu_backward(dy: ArrayLike, x: ArrayLike) -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    return np.asarray(dy * sigmoid_forward(x) * (1 + x * sigmoid_forward(-x)))


@np.errstate(invalid="ignore", over="ignore")
def gelu_forward(x: ArrayLike, approximate: str = "none") -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    if approximate == "tanh":
        return np.asarray(x * sigmoid_forward(2 * _tanh_argument(x)))
    return np.asarray(x * _normal_cdf(x))


@np.errstate(invalid="ignore", over="ignore")
def gelu_backward(dy: ArrayLike, x: ArrayLike, approximate: str = "none") -> NDArray[np.float64]:
    dy, x = np.asarray(dy, np.float64), np.asarray(x, np.float64)
    if approximate == "tanh":
        u = _tanh_argument(x)
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        sigmoid = sigmoid_forward(2 * u)
        return np.asarray(dy * sigmoid * (1 + x * sigmoid_forward(-2 * u) * 2 * du))
    pdf = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(dy * (_normal_cdf(x) + x * pdf))


def _tanh_argument(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_erfc(-x / math.sqrt(2)), np.float64) / 2
