"""linear of tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    fake_gradients,
    lower_precision,
    twin_gradients,
)

_run_backward = define(
    "linear_backward(Tensor dy, Tensor x, Tensor weight, bool[3] output_mask)"
    " -> (Tensor, Tensor, Tensor)",
    core.linear_backward,
    lambda dy, x, weight, output_mask: fake_gradients(
        (x, weight, weight.new_empty(weight.shape[0])), output_mask
    ),
)


class Linear(Function):
    schema = "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
    kernel = core.linear_forward
    twin = F.linear

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(twin_gradients(F.linear, (x, weight, bias), needed, dy))
        return tuple(_run_backward(dy, x, weight, needed))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`torch.nn.functional.linear`; see :func:`fastdl.linear`."""
    return Linear.call(*lower_precision(input, weight, bias))
