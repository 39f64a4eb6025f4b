"""Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) and AMSGrad (Reddi et al. 2018).

One step t = 1, 2, ..., for each parameter:

g = -grad if maximize else grad
g = g + weight_decay * param                         (Adam: coupled decay)
param = param * (1 - lr * weight_decay)              (AdamW: ``decoupled``, in place of the above)
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g^2
v_max = max(v_max, v), used in place of v below      (AMSGrad: when ``max_exp_avg_sqs`` is given)
param = param - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Arrays = Sequence[NDArray[np.floating]]


@np.errstate(all="ignore")
def adam_step(
    params: Arrays,
    grads: Sequence[ArrayLike],
    exp_avgs: Arrays,
    exp_avg_sqs: Arrays,
    max_exp_avg_sqs: Arrays | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> None:
    """Updates params and the moments in place."""
    for i, param in enumerate(params):
        p, g, m, v = (
            np.asarray(a, np.float64) for a in (param, grads[i], exp_avgs[i], exp_avg_sqs[i])
        )
        g = -g if maximize else g
        if decoupled:
            p = p * (1 - lr * weight_decay)
        elif weight_decay != 0:
            g = g + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        exp_avgs[i][...], exp_avg_sqs[i][...] = m, v
        if max_exp_avg_sqs is not None:
            v = np.maximum(np.asarray(max_exp_avg_sqs[i], np.float64), v)
            max_exp_avg_sqs[i][...] = v
        denominator = np.sqrt(v / (1 - beta2**step)) + eps
        param[...] = p - lr / (1 - beta1**step) * m / denominator
