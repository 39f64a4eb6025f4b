"""addmm of tensors: a matrix product with a bias, as GPT-2 of transformers has it."""

from typing import Any

import torch
from torch import Tensor

from fastdl.torch.library import FLOAT_DTYPES, Function, core, lower_precision, twin_gradients
from fastdl.torch.matmul import run_backward


class Addmm(Function):
    schema = "addmm(Tensor bias, Tensor x, Tensor other) -> Tensor"
    kernel = staticmethod(lambda bias, x, other: core.matmul_forward(x, other, None, bias))
    twin = torch.addmm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        bias, x, other = ctx.saved_tensors
        needed = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return tuple(twin_gradients(torch.addmm, (bias, x, other), needed, dy))
        dx, dother = run_backward(dy, x, other, needed[1:])
        return dy.sum(0) if needed[0] else None, dx, dother


def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """:func:`torch.addmm`; PyTorch's own, unless input is a bias: a number for each column."""
    is_sum = beta == 1 and alpha == 1 and input.dtype in FLOAT_DTYPES
    is_bias = (input.dim(), mat1.dim(), mat2.dim()) == (1, 2, 2) and len(input) == mat2.shape[1]
    if is_sum and is_bias:
        return Addmm.call(*lower_precision(input, mat1, mat2))
    return torch.addmm(input, mat1, mat2, beta=beta, alpha=alpha)
