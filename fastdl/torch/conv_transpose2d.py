"""conv_transpose2d of tensors: the gradient that conv2d has for its input, and its gradients."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.conv2d import Conv2d, torchs_gradients
from fastdl.torch.library import (
    FLOAT_DTYPES,
    Function,
    core,
    define,
    fake_gradients,
    image_like,
    in_layout_of,
    is_channels_last,
    lower_precision,
    pair,
)

_OPTIONS = (
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] output_padding, SymInt groups,"
    " SymInt[2] dilation"
)
Pair = Sequence[int]


def _layout_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> Tensor:
    options = (x.shape[-2:], weight.shape[2:], stride, padding, output_padding, dilation)
    size = [
        (n - 1) * s - 2 * p + d * (k - 1) + more + 1
        for n, k, s, p, more, d in zip(*options, strict=True)
    ]
    shape = (*x.shape[:-3], weight.shape[1] * groups, *size)
    # Of the convolution's input only the shape matters: this memory is never touched.
    image = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout_of(x))
    window = (stride, padding, dilation, groups)
    y = core.conv2d_backward(x, image, weight, *window, (True, False, False))[0]
    return y if bias is None else y.add_(bias[:, None, None])


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    groups: int,
    dilation: Pair,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    dy = dy.contiguous(memory_format=_layout_of(x))
    window = (stride, padding, dilation, groups)
    to_x, to_weight, to_bias = output_mask
    return (
        in_layout_of(x, core.conv2d_forward(dy, weight, None, *window)) if to_x else None,
        core.conv2d_backward(x, dy, weight, *window, (False, True, False))[1]
        if to_weight
        else None,
        dy.sum((-2, -1)).sum_to_size(dy.shape[-3]) if to_bias else None,
    )


_run_backward = define(
    "conv_transpose2d_backward(Tensor dy, Tensor x, Tensor weight, SymInt[2] stride,"
    " SymInt[2] padding, SymInt groups, SymInt[2] dilation, bool[3] output_mask)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda dy, x, weight, *options: fake_gradients(
        (x, weight, weight.new_empty(dy.shape[-3])), options[-1], image_like
    ),
)


class ConvTranspose2d(Function):
    schema = f"conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor"
    kernel = staticmethod(_forward)
    twin = F.conv_transpose2d
    keeps_channels_last = True

    setup_context = staticmethod(Conv2d.setup_context)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        stride, padding, output_padding, groups, dilation = ctx.options
        if torch.is_grad_enabled():
            sizes = [dy.shape[-3]] if ctx.has_bias else None
            window = (stride, padding, dilation, True, output_padding, groups)
            gradients = torchs_gradients(dy, x, weight, sizes, *window, needed)
        else:
            gradients = _run_backward(dy, x, weight, stride, padding, groups, dilation, needed)
        return *gradients, None, None, None, None, None


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """:func:`torch.nn.functional.conv_transpose2d`, by the kernels of :func:`fastdl.conv2d`.

    Images of one pixel, and an output padding that is not below the stride, are PyTorch's.
    """
    x, weight, bias = lower_precision(input, weight, bias)
    options = (pair(stride), pair(padding), pair(output_padding), groups, pair(dilation))
    if _fits(x, weight, bias, *options):
        return ConvTranspose2d.call(x, weight, bias, *options)
    return F.conv_transpose2d(x, weight, bias, *options)  # which also tells what is wrong


def _fits(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> bool:
    if x.dim() not in (3, 4) or weight.dim() != 4 or x.dtype not in FLOAT_DTYPES:
        return False
    channels = (weight.shape[1] * groups,)
    if bias is not None and (bias.shape != channels or bias.dtype != x.dtype):
        return False
    # One pixel is a matrix product: (64, 100, 1, 1) to 512 of 4x4 takes conv2d 2.9 times as long.
    return (
        x.shape[-3] == weight.shape[0]
        and x.dtype == weight.dtype
        and x.shape[-2] * x.shape[-1] > 1
        and all(0 <= more < step for more, step in zip(output_padding, stride, strict=True))
    )
