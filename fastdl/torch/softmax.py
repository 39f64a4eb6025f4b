"""softmax and log_softmax of tensors."""

from typing import Any

import torch
from torch import Tensor

from fastdl.torch.library import Function, contiguous_like, core, define


def _fake_backward(dy: Tensor, y: Tensor, dim: int) -> Tensor:
    return contiguous_like(y)


_softmax_backward = define(
    "softmax_backward(Tensor dy, Tensor y, int dim) -> Tensor",
    core.softmax_backward,
    _fake_backward,
)
_log_softmax_backward = define(
    "log_softmax_backward(Tensor dy, Tensor y, int dim) -> Tensor",
    core.log_softmax_backward,
    _fake_backward,
)


class Softmax(Function):
    schema = "softmax(Tensor x, int dim) -> Tensor"
    kernel = core.softmax_forward
    twin = torch.softmax

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch._softmax_backward_data(dy, y, ctx.dim, y.dtype), None
        return _softmax_backward(dy, y, ctx.dim), None


class LogSoftmax(Function):
    schema = "log_softmax(Tensor x, int dim) -> Tensor"
    kernel = core.log_softmax_forward
    twin = torch.log_softmax

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.dim = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch._log_softmax_backward_data(dy, y, ctx.dim, y.dtype), None
        return _log_softmax_backward(dy, y, ctx.dim), None


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`torch.softmax`; see :func:`fastdl.softmax`."""
    return Softmax.call(input if dtype is None else input.to(dtype), dim)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`torch.log_softmax`; see :func:`fastdl.log_softmax`."""
    return LogSoftmax.call(input if dtype is None else input.to(dtype), dim)
