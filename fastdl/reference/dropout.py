"""y_i = x_i * (r_i >= round(p * 2^32)) / (1 - p),  r_i the random words of ``rng_state``.

p = 1 drops everything. Backward is the same map. It is a product, as in torch: a dropped NaN or
infinity gives NaN.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference.philox import random_words


@np.errstate(invalid="ignore")
def dropout_forward(x: ArrayLike, p: float, rng_state: tuple[int, int]) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    kept = random_words(x.size, rng_state).astype(np.uint64) >= round(p * 2**32)
    scale = 1 / (1 - p) if p < 1 else 0.0
    return np.asarray(x * kept.reshape(x.shape) * scale)


def dropout_backward(dy: ArrayLike, p: float, rng_state: tuple[int, int]) -> NDArray[np.float64]:
    return dropout_forward(dy, p, rng_state)
