"""softmax and log_softmax of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastdl.torch.library import Function, contiguous_like, core, define, full_precision


def _softmax(
    name: str,
    forward_kernel: Callable[..., Any],
    backward_kernel: Callable[..., Any],
    torch_op: Callable[..., Tensor],
    torch_backward: Callable[..., Tensor],
) -> type[Function]:
    """One of the ops; both have a gradient that needs their result alone."""
    run_backward = define(
        f"{name}_backward(Tensor dy, Tensor y, int dim) -> Tensor",
        backward_kernel,
        lambda dy, y, dim: contiguous_like(y),
    )

    class Softmax(Function):
        schema = f"{name}(Tensor x, int dim) -> Tensor"
        kernel = staticmethod(forward_kernel)
        twin = staticmethod(torch_op)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(output)
            ctx.dim = inputs[1]

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
            (y,) = ctx.saved_tensors
            if torch.is_grad_enabled():
                return torch_backward(dy, y, ctx.dim, y.dtype), None
            return run_backward(dy, y, ctx.dim), None

    return Softmax


Softmax = _softmax(
    "softmax",
    core.softmax_forward,
    core.softmax_backward,
    torch.softmax,
    torch._softmax_backward_data,
)
LogSoftmax = _softmax(
    "log_softmax",
    core.log_softmax_forward,
    core.log_softmax_backward,
    torch.log_softmax,
    torch._log_softmax_backward_data,
)


def _converted(input: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is not None:
        return input.to(dtype)
    return full_precision(input)[0] if input.is_cuda else input  # as CUDA's autocast, not the CPU's


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`torch.softmax`; see :func:`fastdl.softmax`."""
    return Softmax.call(_converted(input, dtype), dim)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """:func:`torch.log_softmax`; see :func:`fastdl.log_softmax`."""
    return LogSoftmax.call(_converted(input, dtype), dim)
