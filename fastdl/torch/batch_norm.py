"""batch_norm of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    fake_gradients,
    image_like,
    statistics_like,
)


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    training: bool,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    parameter = x.new_empty(x.shape[1]) if weight is None else weight
    return fake_gradients((x, parameter, parameter), output_mask, image_like)


_run_backward = define(
    "batch_norm_backward(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor rstd,"
    " bool training, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    core.batch_norm_backward,
    _fake_backward,
)


class BatchNorm(Function):
    """The result, and what backward needs: mean and 1 / standard deviation of each channel."""

    schema = (
        "batch_norm(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight,"
        " Tensor? bias, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)"
    )
    kernel = core.batch_norm_forward
    twin = staticmethod(lambda *args: (F.batch_norm(*args), None, None))

    @classmethod
    def fake(cls, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        return image_like(x), statistics_like(x, x.shape[1:2]), statistics_like(x, x.shape[1:2])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, _, _, weight, _, ctx.training, _, ctx.eps = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, weight, mean, rstd)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
        if torch.is_grad_enabled():
            running = (None, None) if ctx.training else (mean, rstd.pow(-2) - ctx.eps)
            arguments = (dy, x, weight, *running, mean, rstd, ctx.training, ctx.eps, needed)
            dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(*arguments)
        else:
            arguments = (dy, x, weight, mean, rstd, ctx.training, needed)
            dx, dweight, dbias = _run_backward(*arguments)
        return dx, None, None, dweight, dbias, None, None, None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`torch.nn.functional.batch_norm`; see :func:`fastdl.batch_norm`."""
    arguments = (running_mean, running_var, weight, bias, training, momentum, eps)
    return BatchNorm.call(input, *arguments)[0]
