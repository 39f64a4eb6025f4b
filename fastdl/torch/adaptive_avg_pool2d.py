"""adaptive_avg_pool2d of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import Function, core, define, in_layout, is_channels_last

_run_backward = define(
    "adaptive_avg_pool2d_backward(Tensor dy, SymInt[] input_size, bool channels_last) -> Tensor",
    core.adaptive_avg_pool2d_backward,
    lambda dy, input_size, channels_last: in_layout(channels_last, dy.new_empty(input_size)),
)


class AdaptiveAvgPool2d(Function):
    schema = "adaptive_avg_pool2d(Tensor x, SymInt[2] output_size) -> Tensor"
    kernel = core.adaptive_avg_pool2d_forward
    twin = F.adaptive_avg_pool2d
    keeps_channels_last = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0]
        ctx.input_size, ctx.channels_last = x.shape, is_channels_last(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():
            x = dy.new_empty(ctx.input_size)  # only its shape counts
            return torch.ops.aten._adaptive_avg_pool2d_backward(dy, x), None
        return _run_backward(dy, ctx.input_size, ctx.channels_last), None


def adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    """:func:`torch.nn.functional.adaptive_avg_pool2d`; see :func:`fastdl.adaptive_avg_pool2d`."""
    return AdaptiveAvgPool2d.call(input, adaptive_size(input, output_size))


def adaptive_size(x: Tensor, output_size: int | Sequence[int | None] | None) -> list[int]:
    """(H', W'), where None keeps the size of x."""
    if not isinstance(output_size, Sequence):
        output_size = (output_size, output_size)
    return [
        own if wanted is None else wanted
        for own, wanted in zip(x.shape[-2:], output_size, strict=True)
    ]
