"""scaled_dot_product_attention of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastdl.torch.dropout import Dropout, new_seed, state_of
from fastdl.torch.library import (
    Function,
    contiguous_like,
    core,
    define,
    fake_gradients,
    lower_precision,
    statistics_like,
    twin_gradients,
)

_INPUTS = "Tensor query, Tensor key, Tensor value"
_OPTIONS = "float dropout_p, bool is_causal, float? scale, bool enable_gqa, Tensor? seed"


def _state(seed: Tensor | None) -> Tensor | tuple[int, int]:
    return (0, 0) if seed is None else state_of(seed)


def _forward(*args: Any) -> tuple[Tensor, Tensor]:
    *inputs, seed = args
    y, logsumexp, _ = core.scaled_dot_product_attention_forward(
        *inputs, out=None, rng_state=_state(seed)
    )
    return y, logsumexp


def _backward(
    dy: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    y: Tensor,
    logsumexp: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    seed: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:
    options = (attn_mask, dropout_p, is_causal, scale, enable_gqa, _state(seed), output_mask)
    return core.scaled_dot_product_attention_backward(dy, query, key, value, y, logsumexp, *options)


_run_backward = define(
    f"scaled_dot_product_attention_backward(Tensor dy, {_INPUTS}, Tensor y, Tensor logsumexp,"
    f" Tensor? attn_mask, {_OPTIONS}, bool[4] output_mask) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    lambda dy, query, key, value, y, logsumexp, attn_mask, *options: fake_gradients(
        (query, key, value, attn_mask), options[-1]
    ),
)


def _twin(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    seed: Tensor | None,
) -> Tensor:
    if not dropout_p:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    # PyTorch's own would draw random numbers anew; dropout's are the ones of our kernel.
    _, weights = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    if enable_gqa:
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    dropped: Tensor = Dropout.call(weights, dropout_p, seed)
    return dropped @ value


class ScaledDotProductAttention(Function):
    """The result, and the logarithm of each row's sum of exponentials, which backward needs."""

    schema = (
        f"scaled_dot_product_attention({_INPUTS}, Tensor? attn_mask, {_OPTIONS})"
        " -> (Tensor, Tensor)"
    )
    kernel = staticmethod(_forward)
    twin = staticmethod(lambda *args: (_twin(*args), None))

    @classmethod
    def fake(cls, query: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        key, value, attn_mask, _, is_causal, scale, enable_gqa, seed = args
        options = (0.0, is_causal, scale, enable_gqa, seed)
        y = contiguous_like(_twin(query, key, value, attn_mask, *options))
        heads = query.shape[-3:-2] if enable_gqa else key.shape[-3:-2]
        batch = torch.broadcast_shapes(query.shape[:-2], (*key.shape[:-3], *heads))
        return y, statistics_like(query, (*batch, query.size(-2)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.dropout_p, ctx.is_causal, ctx.scale, ctx.enable_gqa, seed = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, seed, *output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        *inputs, attn_mask, seed, y, logsumexp = ctx.saved_tensors
        options: Any = (ctx.dropout_p, ctx.is_causal, ctx.scale, ctx.enable_gqa, seed)
        needed = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():
            with sdpa_kernel(SDPBackend.MATH):  # the one that can be differentiated twice
                twin = lambda *args: _twin(*args, *options)  # noqa: E731
                gradients = twin_gradients(twin, (*inputs, attn_mask), needed, dy)
        else:
            gradients = _run_backward(dy, *inputs, y, logsumexp, attn_mask, *options, needed)
        return *gradients, None, None, None, None, None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention`.

    See :func:`fastdl.scaled_dot_product_attention`. Which weights ``dropout_p`` drops follows from
    ``torch.manual_seed``, and is not what PyTorch drops.
    """
    seed = new_seed(query) if dropout_p else None
    query, key, value = lower_precision(query, key, value)
    return ScaledDotProductAttention.call(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, seed
    )[0]
