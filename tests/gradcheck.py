"""Central differences in float64: the judge of every backward."""

from collections.abc import Callable

import numpy as np


def numerical_gradient(
    f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, dy: np.ndarray, step: float = 1e-6
) -> np.ndarray:
    """d<f(x), dy>/dx by central differences, one element of x at a time."""
    x = np.array(x, dtype=np.float64)
    dx = np.empty_like(x)
    for index in np.ndindex(x.shape):
        centre = x[index]
        x[index] = centre + step
        above = np.sum(np.asarray(f(x), np.float64) * dy)
        x[index] = centre - step
        below = np.sum(np.asarray(f(x), np.float64) * dy)
        x[index] = centre
        dx[index] = (above - below) / (2 * step)
    return dx
