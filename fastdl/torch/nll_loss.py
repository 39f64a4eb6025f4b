"""nll_loss of tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    contiguous_like,
    core,
    define,
    full_precision,
    twin_gradients,
)

_OPTIONS = "Tensor target, Tensor? weight, int ignore_index, str reduction"

_run_backward = define(
    f"nll_loss_backward(Tensor dy, Tensor x, {_OPTIONS}) -> Tensor",
    core.nll_loss_backward,
    lambda dy, x, *options: contiguous_like(x),
)


def _twin(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    return F.nll_loss(x, target, weight, ignore_index=ignore_index, reduction=reduction)


class NllLoss(Function):
    schema = f"nll_loss(Tensor x, {_OPTIONS}) -> Tensor"
    kernel = core.nll_loss_forward
    twin = staticmethod(_twin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, target, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            loss = lambda x: _twin(x, target, weight, *ctx.options)  # noqa: E731
            (dx,) = twin_gradients(loss, (x,), (True,), dy)
        else:
            dx = _run_backward(dy, x, target, weight, *ctx.options)
        return dx, None, None, None, None


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """:func:`torch.nn.functional.nll_loss`; see :func:`fastdl.nll_loss`."""
    x, weight = full_precision(input, weight)
    return NllLoss.call(x, target, weight, ignore_index, reduction)
