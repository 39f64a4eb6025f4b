"""Optimisers on lists of NumPy arrays: Adam, AdamW and SGD as in torch.optim.

>>> import numpy as np
>>> from fastdl.optim import SGD
>>> x = np.array([3.0, -2.0])
>>> optimizer = SGD([x], lr=0.25, momentum=0.5)
>>> for _ in range(20):
...     optimizer.step([2 * x])  # the gradient of sum(x^2)
>>> bool(np.abs(x).max() < 0.01)
True

The settings are attributes of the same names, so a schedule is ``optimizer.lr = ...``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from fastdl._typing import FLOAT_DTYPES, Array, DTypeLike
from fastdl.adam import adam_step
from fastdl.sgd import sgd_step

__all__ = ["SGD", "Adam", "AdamW"]


class _Optimizer:
    """The parameters, what is kept for each of them, and how both are saved."""

    _settings: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        params: Iterable[Array],
        settings: Mapping[str, Any],
        master_weights: bool,
        float32_state: bool,
    ) -> None:
        if isinstance(params, np.ndarray):
            raise TypeError("params must be a list of arrays, not an array")
        self.params = list(params)
        if not self.params:
            raise ValueError("optimizer got an empty parameter list")
        for param in self.params:
            if not isinstance(param, np.ndarray) or param.dtype.name not in FLOAT_DTYPES:
                kind = getattr(param, "dtype", type(param).__name__)
                raise TypeError(
                    f"optimizer can only optimize arrays of {', '.join(FLOAT_DTYPES)}, "
                    f"but one of the params is {kind}"
                )
        self._check(settings)
        self._set(settings)
        self.master_weights = master_weights
        self.float32_state = float32_state
        self._state: dict[int, dict[str, Any]] = {}  # of the parameters that have had a gradient

    @staticmethod
    def _check(settings: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _set(self, settings: Mapping[str, Any]) -> None:
        for name in self._settings:
            setattr(self, name, settings[name])

    def _given(self, grads: Sequence[Array | None]) -> list[int]:
        """The indices of the parameters that have a gradient."""
        if len(grads) != len(self.params):
            raise ValueError(f"expected {len(self.params)} gradients, got {len(grads)}")
        return [i for i, grad in enumerate(grads) if grad is not None]

    def state_dict(self) -> dict[str, Any]:
        """The state and the settings, in the layout of ``torch.optim.Optimizer.state_dict``.

        The arrays in it are those of the optimiser, not copies.
        """
        group = {name: getattr(self, name) for name in self._settings}
        return {
            "state": {i: dict(state) for i, state in self._state.items()},
            "param_groups": [{**group, "params": list(range(len(self.params)))}],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over copies of what :meth:`state_dict`, of this class or of torch's, returned.

        Raises
        ------
        ValueError : it belongs to other parameters. Nothing has been changed then.
        """
        groups = state_dict["param_groups"]
        if len(groups) != 1:
            raise ValueError("loaded state dict has a different number of parameter groups")
        if len(groups[0]["params"]) != len(self.params):
            raise ValueError(
                "loaded state dict contains a parameter group "
                "that doesn't match the size of optimizer's group"
            )
        settings = {name: groups[0][name] for name in self._settings}
        self._check(settings)
        state = {
            int(i): {name: self._loaded(int(i), name, value) for name, value in values.items()}
            for i, values in state_dict["state"].items()
        }
        self._set(settings)
        self._state = state

    def _loaded(self, i: int, name: str, value: Any) -> Any:
        if name == "step":
            return int(value)
        if value is None:
            return None
        if not 0 <= i < len(self.params):
            raise ValueError(f"loaded state dict has a parameter {i} of {len(self.params)}")
        param = self.params[i]
        if _is_half(param) and hasattr(value, "float"):
            value = value.float()  # NumPy cannot read torch's bfloat16
        dtype = np.float32 if name == "master_param" else self._state_dtype(param)
        array = np.asarray(value).astype(dtype, order="C")
        if array.shape != param.shape:
            raise ValueError(
                f"loaded {name} of parameter {i} has shape {array.shape}, expected {param.shape}"
            )
        return array

    def _state_dtype(self, param: Array) -> DTypeLike:
        return np.float32 if _is_half(param) and self.float32_state else param.dtype

    def _with_master(self, param: Array, state: dict[str, Any]) -> dict[str, Any]:
        """`state`, with the float32 copy of a 16-bit parameter, made when it is first needed."""
        has_master = "master_param" in state
        if has_master == (self.master_weights and _is_half(param)):
            return state
        if has_master:
            return {name: value for name, value in state.items() if name != "master_param"}
        return {**state, "master_param": param.astype(np.float32, order="C")}


class Adam(_Optimizer):
    """Adam (Kingma & Ba 2015), as `torch.optim.Adam
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adam.html>`_.

    The formula is that of :func:`fastdl.adam_step`.

    Parameters
    ----------
    params : list of float16, bfloat16, float32 or float64 arrays, changed by ``step``.
    lr, betas, eps, weight_decay, maximize : see :func:`fastdl.adam_step`.
    amsgrad : use the largest second moment so far (Reddi et al. 2018).
    master_weights : keep a float32 copy of each 16-bit parameter, and make the steps on that: in
        bfloat16 alone a step below 1/512 of the parameter is lost. The copies are part of the
        state: what else changes such a parameter is undone by the next step.
    float32_state : keep what belongs to a 16-bit parameter in float32, not in its own dtype.

    Raises
    ------
    TypeError : params is no list of such arrays.
    ValueError : params is empty, or a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastdl.optim import Adam
    >>> x = np.ones(2)
    >>> Adam([x], lr=0.1).step([np.array([5.0, -5.0])])
    >>> x.round(6)
    array([0.9, 1.1])
    """

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool
    maximize: bool
    _settings = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
    _decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        master_weights: bool = True,
        float32_state: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
            master_weights,
            float32_state,
        )

    @staticmethod
    def _check(settings: Mapping[str, Any]) -> None:
        _check_not_negative("learning rate", settings["lr"])
        _check_not_negative("epsilon value", settings["eps"])
        for i, beta in enumerate(settings["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        _check_not_negative("weight_decay value", settings["weight_decay"])

    def step(self, grads: Sequence[Array | None]) -> None:
        """Change the parameters by one step.

        Parameters
        ----------
        grads : the gradient of each parameter, of its shape and dtype (or float32 beside 16 bits);
            None leaves it, and what is kept for it, as they are.

        Raises
        ------
        TypeError, ValueError : grads do not match the parameters. Nothing has been changed then.
        """
        given = self._given(grads)
        params = [self.params[i] for i in given]
        states = [
            self._with_master(param, self._with_moments(param, self._state.get(i) or {}))
            for i, param in zip(given, params, strict=True)
        ]
        steps = [state["step"] + 1 for state in states]
        adam_step(
            params,
            [grads[i] for i in given],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if self.amsgrad else None,
            step=steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self._decoupled,
            maximize=self.maximize,
            master_params=_masters(states),
        )
        for state, step in zip(states, steps, strict=True):
            state["step"] = step
        self._state.update(zip(given, states, strict=True))

    def _with_moments(self, param: Array, state: dict[str, Any]) -> dict[str, Any]:
        """`state` with zeros for the moments it has not yet.

        So amsgrad may be switched on at any step: the largest v is that from then on.
        """
        missing = [] if state else ["exp_avg", "exp_avg_sq"]
        if self.amsgrad and state.get("max_exp_avg_sq") is None:
            missing.append("max_exp_avg_sq")
        if not missing:
            return state
        dtype = self._state_dtype(param)
        return {"step": 0, **state, **{name: np.zeros(param.shape, dtype) for name in missing}}


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), as `torch.optim.AdamW
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.AdamW.html>`_.

    Parameters and errors are those of :class:`Adam`; the default weight_decay is 0.01.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        master_weights: bool = True,
        float32_state: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            master_weights=master_weights,
            float32_state=float32_state,
        )


class SGD(_Optimizer):
    """Stochastic gradient descent, as `torch.optim.SGD
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.SGD.html>`_.

    The formula is that of :func:`fastdl.sgd_step`.

    Parameters
    ----------
    params : list of float16, bfloat16, float32 or float64 arrays, changed by ``step``.
    lr, momentum, dampening, weight_decay, nesterov, maximize : see :func:`fastdl.sgd_step`.
    master_weights : keep a float32 copy of each 16-bit parameter, and make the steps on that: in
        bfloat16 alone a step below 1/512 of the parameter is lost. The copies are part of the
        state: what else changes such a parameter is undone by the next step.
    float32_state : keep what belongs to a 16-bit parameter in float32, not in its own dtype.

    Raises
    ------
    TypeError : params is no list of such arrays.
    ValueError : params is empty, or a setting is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastdl.optim import SGD
    >>> x = np.ones(2)
    >>> SGD([x], lr=0.1).step([np.array([5.0, -5.0])])
    >>> x
    array([0.5, 1.5])
    """

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    _settings = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")

    def __init__(
        self,
        params: Iterable[Array],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        master_weights: bool = True,
        float32_state: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
            master_weights,
            float32_state,
        )

    @staticmethod
    def _check(settings: Mapping[str, Any]) -> None:
        _check_not_negative("learning rate", settings["lr"])
        _check_not_negative("momentum value", settings["momentum"])
        _check_not_negative("weight_decay value", settings["weight_decay"])
        if settings["nesterov"] and (settings["momentum"] <= 0 or settings["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def step(self, grads: Sequence[Array | None]) -> None:
        """Change the parameters by one step.

        Parameters
        ----------
        grads : the gradient of each parameter, of its shape and dtype (or float32 beside 16 bits);
            None leaves it, and what is kept for it, as they are.

        Raises
        ------
        TypeError, ValueError : grads do not match the parameters. Nothing has been changed then.
        """
        given = self._given(grads)
        params = [self.params[i] for i in given]
        states = [
            self._with_master(param, self._state.get(i, {}))
            for i, param in zip(given, params, strict=True)
        ]
        # As in torch, the buffer of a parameter exists from its first gradient on.
        kept = [state.get("momentum_buffer") for state in states]
        buffers: list[Array] | None = None
        if self.momentum != 0:
            buffers = [
                np.empty(param.shape, self._state_dtype(param)) if buffer is None else buffer
                for param, buffer in zip(params, kept, strict=True)
            ]
        sgd_step(
            params,
            [grads[i] for i in given],  # type: ignore[misc]
            buffers,
            step=[1 if buffer is None else 2 for buffer in kept],
            lr=self.lr,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            maximize=self.maximize,
            master_params=_masters(states),
        )
        for i, state, buffer in zip(given, states, buffers or kept, strict=True):
            if buffer is not None:
                state["momentum_buffer"] = buffer
            if state:
                self._state[i] = state


def _is_half(param: Array) -> bool:
    return param.dtype.itemsize == 2


def _masters(states: Sequence[Mapping[str, Any]]) -> list[Array | None] | None:
    masters = [state.get("master_param") for state in states]
    return None if all(master is None for master in masters) else masters


def _check_not_negative(what: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"Invalid {what}: {value}")
