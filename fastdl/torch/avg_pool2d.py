"""avg_pool2d of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    in_layout,
    is_channels_last,
    pair,
)

_OPTIONS = (
    "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, bool ceil_mode, "
    "bool count_include_pad, int? divisor_override"
)

_run_backward = define(
    f"avg_pool2d_backward(Tensor dy, SymInt[] input_size, {_OPTIONS}, bool channels_last)"
    " -> Tensor",
    core.avg_pool2d_backward,
    lambda dy, input_size, *options: in_layout(options[-1], dy.new_empty(input_size)),
)


class AvgPool2d(Function):
    schema = f"avg_pool2d(Tensor x, {_OPTIONS}) -> Tensor"
    kernel = core.avg_pool2d_forward
    twin = F.avg_pool2d
    keeps_channels_last = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.options = inputs
        ctx.input_size, ctx.channels_last = x.shape, is_channels_last(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            x = dy.new_empty(ctx.input_size)  # only its shape counts
            dx = torch.ops.aten.avg_pool2d_backward(dy, x, *ctx.options)
            dx = in_layout(ctx.channels_last, dx)
        else:
            dx = _run_backward(dy, ctx.input_size, *ctx.options, ctx.channels_last)
        return dx, None, None, None, None, None, None


def avg_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """:func:`torch.nn.functional.avg_pool2d`; see :func:`fastdl.avg_pool2d`."""
    kernel_size = pair(kernel_size)
    return AvgPool2d.call(
        input,
        kernel_size,
        pair(stride) if stride else kernel_size,
        pair(padding),
        ceil_mode,
        count_include_pad,
        divisor_override,
    )
