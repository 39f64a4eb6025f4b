"""Stochastic gradient descent with momentum, as torch.optim.SGD (Sutskever et al. 2013).

One step, for each parameter:

g = -grad if maximize else grad
g = g + weight_decay * param
buffer = g on step 1, momentum * buffer + (1 - dampening) * g later    (when momentum != 0)
g = g + momentum * buffer if nesterov else buffer                      (when momentum != 0)
param = param - lr * g
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Arrays = Sequence[NDArray[np.floating]]


@np.errstate(all="ignore")
def sgd_step(
    params: Arrays,
    grads: Sequence[ArrayLike],
    momentum_buffers: Arrays | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """Updates params and momentum_buffers in place; the buffers may be None without momentum."""
    for i, param in enumerate(params):
        p, g = np.asarray(param, np.float64), np.asarray(grads[i], np.float64)
        g = -g if maximize else g
        if weight_decay != 0:
            g = g + weight_decay * p
        if momentum != 0 and momentum_buffers is not None:
            buffer = g
            if step > 1:
                buffer = np.asarray(momentum_buffers[i], np.float64)
                buffer = momentum * buffer + (1 - dampening) * g
            momentum_buffers[i][...] = buffer
            g = g + momentum * buffer if nesterov else buffer
        param[...] = p - lr * g
