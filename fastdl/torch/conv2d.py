"""conv2d of tensors."""

from collections.abc import Sequence
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
    image_like,
    lower_precision,
    pair,
)

_OPTIONS = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"


_run_backward = define(
    f"conv2d_backward(Tensor dy, Tensor x, Tensor weight, {_OPTIONS}, bool[3] output_mask)"
    " -> (Tensor, Tensor, Tensor)",
    core.conv2d_backward,
    lambda dy, x, weight, *options: fake_gradients(
        (x, weight, weight.new_empty(weight.shape[0])), options[-1], image_like
    ),
)


def torchs_gradients(dy: Tensor, x: Tensor, *options: Any) -> tuple[Tensor | None, ...]:
    """PyTorch's own of a convolution, which can be differentiated again; it knows batches alone."""
    gradients = torch.ops.aten.convolution_backward
    if x.dim() == 4:
        return tuple(gradients(dy, x, *options))
    dx, *others = gradients(dy.unsqueeze(0), x.unsqueeze(0), *options)
    return None if dx is None else dx.squeeze(0), *others


class Conv2d(Function):
    schema = f"conv2d(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor"
    kernel = core.conv2d_forward
    twin = F.conv2d
    keeps_channels_last = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, *ctx.options = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            stride, padding, dilation, groups = ctx.options
            sizes = [weight.shape[0]] if ctx.has_bias else None
            window = (stride, padding, dilation, False, (0, 0), groups)
            gradients = torchs_gradients(dy, x, weight, sizes, *window, needed)
        else:
            gradients = _run_backward(dy, x, weight, *ctx.options, needed)
        return *gradients, None, None, None, None


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`torch.nn.functional.conv2d`; see :func:`fastdl.conv2d`."""
    x, weight, bias = lower_precision(input, weight, bias)
    if isinstance(padding, str):
        x, padding = _padded(x, weight, stride, padding, dilation)
    return Conv2d.call(x, weight, bias, pair(stride), pair(padding), pair(dilation), groups)


_run_fused = define(
    f"conv2d_fused(Tensor x, Tensor weight, Tensor? bias, {_OPTIONS}, str? activation,"
    " Tensor? residual, Tensor? packed) -> Tensor",
    lambda x, *rest: core.conv2d_forward(x, *rest[:-1], None, rest[-1]),
    lambda x, *rest: Conv2d.fake(x, *rest[:-3]),
)


def conv2d_fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    groups: int,
    activation: str | None,
    residual: Tensor | None,
    packed: Tensor | None = None,
) -> Tensor:
    """activation(conv2d(input) + residual) without gradients; see :func:`fastdl.conv2d`.

    ``packed`` is what ``_core.pack_conv2d_weight`` made of the weight.
    """
    x, weight, bias = lower_precision(input, weight, bias)
    packed = of_dtype(x, packed)
    if isinstance(padding, str):
        x, padding = _padded(x, weight, stride, padding, dilation)
    window = (pair(stride), pair(padding), pair(dilation), groups)
    if residual is None:
        return _run_fused(x, weight, bias, *window, activation, None, packed)
    sizes = zip(x.shape[-2:], weight.shape[2:], *window[:3], strict=True)
    places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    shape = (*x.shape[:-3], weight.shape[0], *places)
    if not fits(residual, x, shape):
        y = _run_fused(x, weight, bias, *window, None, None, packed)
        return followed_by(y, activation, residual)
    return _run_fused(x, weight, bias, *window, activation, residual.expand(shape), packed)


def _padded(
    x: Tensor, weight: Tensor, stride: Any, padding: str, dilation: Any
) -> tuple[Tensor, tuple[int, int]]:
    """x and the padding that "valid" and "same" mean; an odd zero goes to the bottom and right."""
    if padding == "valid":
        return x, (0, 0)
    if padding != "same":
        raise ValueError(f'[conv2d] padding must be "valid", "same" or ints, got {padding!r}')
    if pair(stride) != (1, 1):
        raise ValueError('[conv2d] padding="same" needs a stride of 1')
    total = [d * (k - 1) for d, k in zip(pair(dilation), weight.shape[2:], strict=True)]
    if any(size % 2 for size in total):
        x = F.pad(x, (0, total[1] % 2, 0, total[0] % 2))
    return x, (total[0] // 2, total[1] // 2)
