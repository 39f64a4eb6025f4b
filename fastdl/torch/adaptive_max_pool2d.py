"""adaptive_max_pool2d of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.adaptive_avg_pool2d import adaptive_size
from fastdl.torch.library import (
    Function,
    contiguous_like,
    core,
    define,
    in_layout,
    in_layout_of,
    is_channels_last,
    is_direct,
    record,
)


def _with_indices(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    y, indices = core.adaptive_max_pool2d_forward(x, output_size)
    return y, in_layout_of(x, indices)


def _backward(dy: Tensor, saved: Tensor, input_size: Sequence[int], channels_last: bool) -> Tensor:
    if saved.dtype == torch.uint8:
        return core.adaptive_max_pool2d_backward_codes(dy, saved, input_size, channels_last)
    return core.adaptive_max_pool2d_backward(dy, saved, input_size, channels_last)


_run_backward = define(
    "adaptive_max_pool2d_backward(Tensor dy, Tensor saved, SymInt[] input_size,"
    " bool channels_last) -> Tensor",
    _backward,
    lambda dy, saved, input_size, channels_last: in_layout(channels_last, dy.new_empty(input_size)),
)


def _twin(x: Tensor, output_size: Any) -> tuple[Tensor, Tensor]:
    y, indices = F.adaptive_max_pool2d(x, output_size, return_indices=True)
    return y, indices


class AdaptiveMaxPool2d(Function):
    schema = "adaptive_max_pool2d(Tensor x, SymInt[2] output_size) -> (Tensor, Tensor)"
    kernel = staticmethod(_with_indices)
    twin = staticmethod(_twin)

    @classmethod
    def fake(cls, x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        results = (in_layout_of(x, contiguous_like(result)) for result in _twin(x, output_size))
        y, indices = results
        return y, indices

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, ctx.output_size = inputs
        _, saved = output
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(x, saved)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, None]:
        x, saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            indices = core.adaptive_max_pool2d_forward(x, ctx.output_size)[1]
            return torch.ops.aten.adaptive_max_pool2d_backward(dy, x, indices), None
        return _run_backward(dy, saved, x.shape, is_channels_last(x)), None


class _AdaptiveMaxPool2dCodes(torch.autograd.Function):
    """The same with codes of one byte in place of indices, where there are: for eager mode."""

    forward = core.adaptive_max_pool2d_saved
    setup_context = AdaptiveMaxPool2d.setup_context
    backward = AdaptiveMaxPool2d.backward


_with_gradient = record(_AdaptiveMaxPool2dCodes)


def adaptive_max_pool2d(
    input: Tensor, output_size: int | Sequence[int | None] | None, return_indices: bool = False
) -> Any:
    """:func:`torch.nn.functional.adaptive_max_pool2d`; see :func:`fastdl.adaptive_max_pool2d`."""
    size = adaptive_size(input, output_size)
    if return_indices:
        return AdaptiveMaxPool2d.call(input, size)
    return (_with_gradient if is_direct(input) else AdaptiveMaxPool2d.call)(input, size)[0]
