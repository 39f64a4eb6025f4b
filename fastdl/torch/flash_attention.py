"""The provider "fastdl" of ``torch.nn.attention``: for programs that call PyTorch's attention.

>>> import torch, fastdl.torch
>>> torch.nn.attention.activate_flash_attention_impl("fastdl")
>>> x = torch.ones(1, 2, 3, 4)
>>> y = torch.nn.functional.scaled_dot_product_attention(x, x, x)  # by fastdl's kernel
>>> torch.nn.attention.restore_flash_attention_impl()

Importing :mod:`fastdl.torch` makes the provider known and does not activate it. PyTorch asks it
where it would take its own flash attention on the CPU: 4-dimensional tensors, heads of query, key
and value of one size, no dropout, no gradient of the mask.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import attention

from fastdl.torch.library import core


class _Handle:
    """While it lives, aten's flash attention of CPU tensors is ours."""

    def __init__(self) -> None:
        self._library: Any = torch.library.Library("aten", "IMPL", "CPU")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a kernel is overridden, as it should be
            self._library.impl("_scaled_dot_product_flash_attention_for_cpu", _forward)
            self._library.impl("_scaled_dot_product_flash_attention_for_cpu_backward", _backward)

    def remove(self) -> None:
        self._library = None


def _options(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float | None
) -> tuple[Any, ...]:
    return attn_mask, 0.0, is_causal, scale, query.size(1) != key.size(1)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    options = _options(query, key, attn_mask, is_causal, scale)
    y, logsumexp, _ = core.scaled_dot_product_attention_forward(query, key, value, *options)
    # torch.compile relies on the strides that PyTorch's own kernels give their results.
    if y.stride() != torch.empty_like(query, device="meta").stride():
        y = torch.empty_like(query).copy_(y)
    return y, _permuted(logsumexp)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    options = _options(query, key, attn_mask, is_causal, scale)
    gradients = core.scaled_dot_product_attention_backward(
        grad_out, query, key, value, out, logsumexp, *options, (0, 0), (True, True, True, False)
    )
    return tuple(_permuted(dx) for dx in gradients[:3])


def _permuted(x: Tensor) -> Tensor:
    """The same, with heads inside of the length in memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


if hasattr(attention, "register_flash_attention_impl"):  # not in older versions of PyTorch
    attention.register_flash_attention_impl("fastdl", register_fn=_Handle)
