"""matmul of tensors."""

from typing import Any

import torch
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    fake_gradients,
    lower_precision,
    twin_gradients,
)

run_backward = define(
    "matmul_backward(Tensor dy, Tensor x, Tensor other, bool[2] output_mask) -> (Tensor, Tensor)",
    core.matmul_backward,
    lambda dy, x, other, output_mask: fake_gradients((x, other), output_mask),
)


class Matmul(Function):
    schema = "matmul(Tensor x, Tensor other) -> Tensor"
    kernel = core.matmul_forward
    twin = torch.matmul

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, other = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(twin_gradients(torch.matmul, (x, other), needed, dy))
        return tuple(run_backward(dy, x, other, needed))


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """:func:`torch.matmul`; see :func:`fastdl.matmul`."""
    return Matmul.call(*lower_precision(input, other))
