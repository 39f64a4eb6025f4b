"""layer_norm of tensors."""

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
    fake_gradients,
    full_precision,
    statistics_like,
)

_run_backward = define(
    "layer_norm_backward(Tensor dy, Tensor x, SymInt[] normalized_shape, Tensor mean, Tensor rstd,"
    " Tensor? weight, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    core.layer_norm_backward,
    lambda dy, x, shape, mean, rstd, weight, mask: fake_gradients(
        (x, *[_parameter(x, shape, weight)] * 2), mask
    ),
)


def _parameter(x: Tensor, shape: Sequence[int], weight: Tensor | None) -> Tensor:
    return x.new_empty(shape) if weight is None else weight


class LayerNorm(Function):
    """The result, and mean and 1 / standard deviation of every row, which backward needs."""

    schema = (
        "layer_norm(Tensor x, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps)"
        " -> (Tensor, Tensor, Tensor)"
    )
    kernel = core.layer_norm_forward
    twin = staticmethod(lambda *args: (F.layer_norm(*args), None, None))

    @classmethod
    def fake(cls, x: Tensor, normalized_shape: Sequence[int], *rest: Any) -> tuple[Tensor, ...]:
        rows = x.shape[: x.dim() - len(normalized_shape)]
        return contiguous_like(x), *(statistics_like(x, rows) for _ in range(2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, ctx.shape, weight, bias, ctx.eps = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, mean, rstd, weight, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        if torch.is_grad_enabled():
            arguments = (dy, x, ctx.shape, *_of_torch(x, mean, rstd, ctx.shape), weight, bias)
            gradients = torch.ops.aten.native_layer_norm_backward(*arguments, needed)
        else:
            gradients = _run_backward(dy, x, ctx.shape, mean, rstd, weight, needed)
        return gradients[0], None, gradients[1], gradients[2], None


def _of_torch(x: Tensor, mean: Tensor, rstd: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The statistics in the shape and dtype PyTorch keeps them in."""
    rows = (*mean.shape, *(1 for _ in shape))
    return mean.view(rows).to(x.dtype), rstd.view(rows).to(x.dtype)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.layer_norm`; see :func:`fastdl.layer_norm`."""
    if input.is_cuda:  # as CUDA's autocast, not the CPU's
        input, weight, bias = full_precision(input, weight, bias)
    return LayerNorm.call(input, list(normalized_shape), weight, bias, eps)[0]
