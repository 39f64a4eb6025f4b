"""One step of stochastic gradient descent on lists of arrays."""

from collections.abc import Sequence

from fastdl import _core
from fastdl._typing import Array


def sgd_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    momentum_buffers: Sequence[Array] | None = None,
    *,
    step: int | Sequence[int],
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    master_params: Sequence[Array | None] | None = None,
) -> None:
    """One step of stochastic gradient descent for all parameters, in place.

    With g the gradient (negated to maximize)::

        g = g + weight_decay * param
        buffer = g on step 1, momentum * buffer + (1 - dampening) * g later
        g = g + momentum * buffer if nesterov, else buffer
        param = param - lr * g

    where the lines with the buffer hold if momentum is not 0. The semantics of `torch.optim.SGD
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.SGD.html>`_ (Sutskever et al. 2013).
    All arrays are worked on in one parallel region.

    Parameters
    ----------
    params : list of float16, bfloat16, float32 or float64 arrays of any shapes; changed.
    grads : the gradient of each, of its shape and dtype, or float32 beside a 16-bit param.
    momentum_buffers : one array for each, of the same shape and dtypes; changed if momentum is not
        0, and may be None otherwise. On step 1 what they hold does not matter.
    step : 1 on the first step, more on later ones; or a list with that of each parameter.
    lr, momentum, dampening, weight_decay, nesterov, maximize : see above.
    master_params : for 16-bit params, a float32 array of the same shape each (None for others); the
        step changes it, and the param becomes its rounding. Steps smaller than half a unit of the
        last of a bfloat16's 8 bits are lost without.

    Raises
    ------
    TypeError : an argument is no list of float arrays, or dtypes differ.
    ValueError : lengths or shapes differ; an array to be changed is read-only or shares memory with
        another; a number is out of range; there is a momentum and no buffers, or nesterov without a
        momentum or with dampening. Nothing has been changed then.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> param = np.ones(2)
    >>> fastdl.sgd_step([param], [np.array([5.0, -5.0])], step=1, lr=0.1)
    >>> param
    array([0.5, 1.5])
    """
    _core.sgd_step(
        params,
        grads,
        momentum_buffers,
        step,
        lr,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        maximize,
        master_params,
    )
