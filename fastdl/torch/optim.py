"""Adam, AdamW and SGD: torch.optim's, with every parameter's step in one parallel region.

They are subclasses with the same settings and the same ``state_dict``: either class can go on where
the other stopped; schedulers, ``GradScaler`` and ``ZeroRedundancyOptimizer`` take them as
they take PyTorch's. ``foreach`` is accepted and makes no difference. With ``fused`` or
``capturable``, step counts of parameters on a CUDA device lie there, as PyTorch's do, and a step
waits for nothing: CUDA graphs record it. On the CPU these two make no difference.
What the kernels do not know (``differentiable``; complex parameters, those of several devices,
subclasses of Tensor) makes PyTorch's own step.

>>> import torch, fastdl.torch
>>> x = torch.tensor([3.0], requires_grad=True)
>>> optimizer = fastdl.torch.optim.Adam([x], lr=0.5)
>>> (x * x).sum().backward()
>>> optimizer.step()
>>> x
tensor([2.5000], requires_grad=True)
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.sgd import sgd as torch_sgd

from fastdl.torch.library import (
    DEVICES,
    FLOAT_DTYPES,
    HALF_DTYPES,
    PLAIN,
    core,
    is_channels_last,
)

__all__ = ["SGD", "Adam", "AdamW"]


class _Optimizer(torch.optim.Optimizer):
    """What the optimisers share; comes before PyTorch's class of the same name."""

    _moments: tuple[str, ...]
    _step_supports_amp_scaling = True  # GradScaler leaves the scale to step()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for all parameters; returns what ``closure`` returns, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [
            (group, [p for p in group["params"] if p.grad is not None])
            for group in self.param_groups
        ]
        groups = [(group, params) for group, params in groups if params]
        found_inf = getattr(self, "found_inf", None)
        grad_scale = getattr(self, "grad_scale", None)
        if found_inf is not None and not all(self._runs_on_device(*group) for group in groups):
            if found_inf.item():
                return loss
            found_inf = None
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group, params in groups:
                scaling: dict[str, Tensor | None] = {}  # what is read on the device, if it is
                grads: list[Any] = [p.grad for p in params]
                if self._runs_on_device(group, params):
                    scaling = {"found_inf": found_inf, "grad_scale": grad_scale}
                elif grad_scale is not None:
                    grads = _unscaled(grads, grad_scale)
                self._step_group(group, params, grads, scaling)
        return loss

    def _step_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        scaling: dict[str, Tensor | None],
    ) -> None:
        raise NotImplementedError

    def _runs_on_device(self, group: dict[str, Any], params: list[Tensor]) -> bool:
        """Whether a step reads its numbers on the device, and the host waits for nothing."""
        asked = group["fused"] or group.get("capturable")
        return bool(asked) and params[0].is_cuda and _is_ours(group, params)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """PyTorch's, but the float32 state of 16-bit parameters stays float32."""
        super().load_state_dict(state_dict)
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            saved = state_dict["state"].get(saved_id, {})
            for name in self._moments:
                moment = saved.get(name)
                if moment is not None and _is_half(param) and moment.dtype == torch.float32:
                    self.state[param][name] = moment.clone()


class Adam(_Optimizer, torch.optim.Adam):
    """:class:`torch.optim.Adam`, with float32 moments for 16-bit parameters.

    The semantics of `torch.optim.Adam
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.Adam.html>`_, its arguments included.
    """

    _moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def _step_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        scaling: dict[str, Tensor | None],
    ) -> None:
        beta1, beta2 = group["betas"]
        settings = {
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": group["weight_decay"],
            "eps": group["eps"],
            "maximize": group["maximize"],
        }
        if not _is_ours(group, params):
            lists: list[list[Any]] = [[] for _ in range(6)]
            has_complex = self._init_group(group, *lists)
            step: Any = torch_adam
            step(
                *lists,
                **settings,
                lr=group["lr"],
                amsgrad=group["amsgrad"],
                has_complex=has_complex,
                capturable=group["capturable"],
                differentiable=group["differentiable"],
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )
            return
        states = [self.state[param] for param in params]
        if not all(states) or any(grad.is_sparse for grad in grads):
            self._start_halves(group, params)
            self._init_group(group, *([] for _ in range(6)))  # refuses sparse gradients
        names = self._moments[: 3 if group["amsgrad"] else 2]
        moments = [[state[name] for state in states] for name in names]
        params_, grads, *moments = _in_memory_order(params, grads, *moments)
        counts = [state["step"] for state in states]
        counts_here = params[0].is_cuda and not counts[0].is_cuda
        core.adam_step(
            params_,
            grads,
            moments[0],
            moments[1],
            moments[2] if group["amsgrad"] else None,
            step=[int(count.item()) + 1 for count in counts] if counts_here else 1,
            counts=None if counts_here else counts,
            **{name: float(value) for name, value in settings.items() if name != "maximize"},
            maximize=group["maximize"],
            decoupled=group["decoupled_weight_decay"],
            **_rate(group, counts[0].is_cuda),
            **scaling,
        )
        if counts_here:
            torch._foreach_add_(counts, 1)
        torch.autograd.graph.increment_version(params)

    def _start_halves(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """The first state of 16-bit parameters; PyTorch would make it 16-bit, too."""
        for param in params:
            if _is_half(param) and not self.state[param]:
                state = self.state[param]
                counted_there = group["capturable"] or group["fused"]
                state["step"] = torch.zeros((), device=param.device if counted_there else "cpu")
                for name in self._moments[: 3 if group["amsgrad"] else 2]:
                    state[name] = torch.zeros_like(param, dtype=torch.float32)


class AdamW(Adam, torch.optim.AdamW):
    """:class:`torch.optim.AdamW`, with float32 moments for 16-bit parameters.

    The semantics of `torch.optim.AdamW
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.AdamW.html>`_, its arguments included.
    """


class SGD(_Optimizer, torch.optim.SGD):
    """:class:`torch.optim.SGD`, with float32 momentum for 16-bit parameters.

    The semantics of `torch.optim.SGD
    <https://docs.pytorch.org/docs/2.13/generated/torch.optim.SGD.html>`_, its arguments included.
    """

    _moments = ("momentum_buffer",)

    def _step_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        scaling: dict[str, Tensor | None],
    ) -> None:
        settings = {
            name: group[name]
            for name in ("weight_decay", "momentum", "dampening", "nesterov", "maximize")
        }
        has_sparse_grad = any(grad.is_sparse for grad in grads)
        if has_sparse_grad or not _is_ours(group, params):
            buffers: list[Any] = [None] * len(params)
            if group["momentum"]:
                buffers = [self.state[p].get("momentum_buffer") for p in params]
            own: list[Any] = [param.grad for param in params]  # of the parameters' own dtypes
            torch_sgd(
                params, own, buffers, lr=group["lr"], has_sparse_grad=has_sparse_grad, **settings
            )
            if group["momentum"]:
                for param, buffer in zip(params, buffers, strict=True):
                    self.state[param]["momentum_buffer"] = buffer
            return
        rate = _rate(group, bool(scaling))
        buffers, steps = [], []
        if group["momentum"]:
            for param in params:
                state = self.state[param]
                fresh = state.get("momentum_buffer") is None
                if fresh:
                    dtype = torch.float32 if _is_half(param) else param.dtype
                    state["momentum_buffer"] = torch.zeros_like(param, dtype=dtype)
                buffers.append(state["momentum_buffer"])
                steps.append(1 if fresh else 2)
        params, grads, buffers = _in_memory_order(params, grads, buffers)
        core.sgd_step(
            params,
            grads,
            buffers or None,
            step=steps or 1,
            **settings,
            **rate,
            **scaling,
        )
        torch.autograd.graph.increment_version(params)

    def _runs_on_device(self, group: dict[str, Any], params: list[Tensor]) -> bool:
        # Whether a buffer holds something yet is known here alone.
        starts = group["momentum"] and any(not self.state.get(param) for param in params)
        return super()._runs_on_device(group, params) and not (starts and group["dampening"])


def _unscaled(grads: Sequence[Tensor], grad_scale: Tensor) -> list[Tensor]:
    """The gradients, divided in place by what GradScaler multiplied the loss with.

    What is made of float16 ones is float32: float16 ends at 6e-8, and what is smaller is what the
    scale is for.
    """
    unscaled = [grad.float() if grad.dtype in HALF_DTYPES else grad for grad in grads]
    torch._foreach_div_(unscaled, grad_scale)
    for grad, exact in zip(grads, unscaled, strict=True):
        if grad is not exact:
            grad.copy_(exact)
    return unscaled


def _rate(group: dict[str, Any], on_device: bool) -> dict[str, Any]:
    """The learning rate, left on the device if it lies there and may."""
    lr = group["lr"]
    if on_device and isinstance(lr, Tensor) and lr.is_cuda:
        return {"lr": 0.0, "device_lr": lr.float()}
    return {"lr": float(lr)}


def _is_half(param: Tensor) -> bool:
    return param.dtype in HALF_DTYPES


def _is_ours(group: dict[str, Any], params: Sequence[Tensor]) -> bool:
    index = params[0].get_device()
    return (
        not group["differentiable"]
        and params[0].device.type in DEVICES
        and all(
            type(param) in PLAIN and param.dtype in FLOAT_DTYPES and param.get_device() == index
            for param in params
        )
    )


def _in_memory_order(
    params: Sequence[Tensor], *others: Sequence[Tensor]
) -> tuple[list[Tensor], ...]:
    """What belongs to a channels-last parameter as views that the kernels take as they lie."""
    lists = (params, *others)
    if not any(is_channels_last(param) for param in params):
        return tuple(list(tensors) for tensors in lists)
    return tuple(
        [
            tensor.permute(0, 2, 3, 1) if is_channels_last(param) else tensor
            for param, tensor in zip(params, tensors, strict=False)
        ]
        for tensors in lists
    )
