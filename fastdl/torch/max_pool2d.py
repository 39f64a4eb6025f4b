"""max_pool2d of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    contiguous_like,
    core,
    define,
    in_layout,
    in_layout_of,
    is_channels_last,
    is_direct,
    pair,
    record,
)

_OPTIONS = (
    "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, bool ceil_mode"
)


def _with_indices(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    y, indices = core.max_pool2d_forward(x, *options)
    return y, in_layout_of(x, indices)


def _backward(dy: Tensor, saved: Tensor, input_size: Sequence[int], *options: Any) -> Tensor:
    if saved.dtype == torch.uint8:
        return core.max_pool2d_backward_codes(dy, saved, input_size, *options)
    return core.max_pool2d_backward(dy, saved, input_size, options[-1])


_run_backward = define(
    f"max_pool2d_backward(Tensor dy, Tensor saved, SymInt[] input_size, {_OPTIONS},"
    " bool channels_last) -> Tensor",
    _backward,
    lambda dy, saved, input_size, *options: in_layout(options[-1], dy.new_empty(input_size)),
)


def _twin(x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    y, indices = F.max_pool2d(x, *options, return_indices=True)
    return y, indices


class MaxPool2d(Function):
    schema = f"max_pool2d_with_indices(Tensor x, {_OPTIONS}) -> (Tensor, Tensor)"
    kernel = staticmethod(_with_indices)
    twin = staticmethod(_twin)

    @classmethod
    def fake(cls, x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        y, indices = (in_layout_of(x, contiguous_like(result)) for result in _twin(x, *options))
        return y, indices

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, *ctx.options = inputs
        _, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(x, saved)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            indices = core.max_pool2d_forward(x, *ctx.options)[1]
            dx = torch.ops.aten.max_pool2d_with_indices_backward(dy, x, *ctx.options, indices)
            dx = in_layout_of(x, dx)
        else:
            dx = _run_backward(dy, saved, x.shape, *ctx.options, is_channels_last(x))
        return dx, None, None, None, None, None


class _MaxPool2dCodes(torch.autograd.Function):
    """The same with codes of one byte in place of indices, where there are: for eager mode."""

    forward = core.max_pool2d_saved
    setup_context = MaxPool2d.setup_context
    backward = MaxPool2d.backward


_with_gradient = record(_MaxPool2dCodes)

_maxima = define(
    f"max_pool2d(Tensor x, {_OPTIONS}) -> Tensor",
    core.max_pool2d,
    lambda x, *options: in_layout_of(x, contiguous_like(F.max_pool2d(x, *options))),
)


def max_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """:func:`torch.nn.functional.max_pool2d`; see :func:`fastdl.max_pool2d`."""
    kernel_size = pair(kernel_size)
    stride = pair(stride) if stride else kernel_size
    options = (kernel_size, stride, pair(padding), pair(dilation), ceil_mode)
    if return_indices:
        return MaxPool2d.call(input, *options)
    wants_gradient = torch.is_grad_enabled() and input.requires_grad
    if is_direct(input):
        return _with_gradient(input, *options)[0] if wants_gradient else _maxima(input, *options)
    if torch.compiler.is_compiling() and not wants_gradient:
        return _maxima(input, *options)
    return MaxPool2d.call(input, *options)[0]
