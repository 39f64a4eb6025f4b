"""One step of Adam, AdamW or AMSGrad on lists of arrays."""

from collections.abc import Sequence

from fastdl import _core
from fastdl._typing import Array


def adam_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    max_exp_avg_sqs: Sequence[Array] | None = None,
    *,
    step: int | Sequence[int],
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
    master_params: Sequence[Array | None] | None = None,
) -> None:
    """One step of Adam for all parameters, in place.

    With g the gradient (negated to maximize) and t the count of the step::

        g = g + weight_decay * param                 coupled decay (Adam)
        param = param * (1 - lr * weight_decay)      in its place if decoupled (AdamW)
        m = beta1 * m + (1 - beta1) * g              exp_avg
        v = beta2 * v + (1 - beta2) * g^2            exp_avg_sq
        param = param - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)

    The semantics of `torch.optim.Adam
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adam.html>`_ and `torch.optim.AdamW
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.AdamW.html>`_ (Kingma & Ba 2015,
    Loshchilov & Hutter 2019, Reddi et al. 2018). All arrays are worked on in one parallel region,
    so that hundreds of small ones cost little more than one of their total size.

    Parameters
    ----------
    params : list of float16, bfloat16, float32 or float64 arrays of any shapes; changed.
    grads : the gradient of each, of its shape and dtype, or float32 beside a 16-bit param.
    exp_avgs, exp_avg_sqs : the moments of each, of the same shape and dtypes, zeros at first;
        changed.
    max_exp_avg_sqs : if given, the largest v so far takes the place of v (AMSGrad); changed.
    step : t, 1 on the first step; or a list with that of each parameter.
    lr, beta1, beta2, eps, weight_decay, decoupled, maximize : see above.
    master_params : for 16-bit params, a float32 array of the same shape each (None for others); the
        step changes it, and the param becomes its rounding. Steps smaller than half a unit of the
        last of a bfloat16's 8 bits are lost without.

    Raises
    ------
    TypeError : an argument is no list of float arrays, or dtypes differ.
    ValueError : lengths or shapes differ; an array to be changed is read-only or shares memory with
        another; a number is out of range. Nothing has been changed then.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> param, exp_avg, exp_avg_sq = np.ones(2), np.zeros(2), np.zeros(2)
    >>> fastdl.adam_step([param], [np.array([5.0, -5.0])], [exp_avg], [exp_avg_sq], step=1, lr=0.1)
    >>> param.round(6)
    array([0.9, 1.1])
    """
    _core.adam_step(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        step,
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        decoupled,
        maximize,
        master_params,
    )
