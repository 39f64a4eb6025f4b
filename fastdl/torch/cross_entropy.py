"""cross_entropy of tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    fake_gradients,
    full_precision,
    twin_gradients,
)

_OPTIONS = "Tensor target, Tensor? weight, int ignore_index, str reduction, float label_smoothing"

_run_backward = define(
    f"cross_entropy_backward(Tensor dy, Tensor x, {_OPTIONS}, bool[2] output_mask)"
    " -> (Tensor, Tensor)",
    core.cross_entropy_backward,
    lambda dy, x, target, *options: fake_gradients((x, target), options[-1]),
)


def _twin(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    return F.cross_entropy(
        x,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


class CrossEntropy(Function):
    schema = f"cross_entropy(Tensor x, {_OPTIONS}) -> Tensor"
    kernel = core.cross_entropy_forward
    twin = staticmethod(_twin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[3:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, target, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            loss = lambda x, target: _twin(x, target, weight, *ctx.options)  # noqa: E731
            gradients = twin_gradients(loss, (x, target), needed, dy)
        else:
            gradients = _run_backward(dy, x, target, weight, *ctx.options, needed)
        return *gradients, None, None, None, None


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """:func:`torch.nn.functional.cross_entropy`; see :func:`fastdl.cross_entropy`."""
    x, target, weight = full_precision(input, target, weight)
    return CrossEntropy.call(x, target, weight, ignore_index, reduction, label_smoothing)
