"""linear of tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.epilogue import fits, followed_by, of_dtype
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


_run_fused = define(
    "linear_fused(Tensor x, Tensor weight, Tensor? bias, str? activation, Tensor? residual,"
    " Tensor? packed) -> Tensor",
    lambda *args: core.linear_forward(*args[:-1], None, args[-1]),
    lambda x, weight, *rest: x.new_empty((*x.shape[:-1], weight.shape[0])),
)


def linear_fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None,
    packed: Tensor | None = None,
) -> Tensor:
    """activation(linear(input) + residual) without gradients; see :func:`fastdl.linear`.

    ``packed`` is what ``_core.pack_linear_weight`` made of the weight (out, in).
    """
    x, weight, bias = lower_precision(input, weight, bias)
    packed = of_dtype(x, packed)
    if residual is None:
        return _run_fused(x, weight, bias, activation, None, packed)
    shape = (*x.shape[:-1], weight.shape[0])
    if not fits(residual, x, shape):
        return followed_by(_run_fused(x, weight, bias, None, None, packed), activation, residual)
    return _run_fused(x, weight, bias, activation, residual.expand(shape), packed)
