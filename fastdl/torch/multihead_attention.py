"""MultiheadAttention of torch.nn by fastdl's products and attention."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from fastdl.torch.dropout import dropout
from fastdl.torch.linear import linear
from fastdl.torch.matmul import matmul
from fastdl.torch.scaled_dot_product_attention import scaled_dot_product_attention
from fastdl.torch.softmax import softmax

_NAME = "[multihead_attention]"


class MultiheadAttention(nn.MultiheadAttention):
    """:class:`torch.nn.MultiheadAttention`, with all its options.

    Fastest with ``need_weights=False``, which never has the (L, S) weights in memory, and boolean
    masks. Nested tensors go to PyTorch's own ``forward``. Which weights ``dropout`` drops is not
    what PyTorch drops.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested or key.is_nested or value.is_nested:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        _check_shapes(self, query, key, value, key_padding_mask, attn_mask)
        if is_causal and attn_mask is None:
            raise ValueError(f"{_NAME} is_causal is a hint about attn_mask, which is None")
        batched = query.dim() == 3
        batch_first = self.batch_first or not batched
        q, k, v = self._heads(query, key, value, batched, batch_first)  # (N, H, L or S, D)
        by_hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if by_hint else _merged(attn_mask, key_padding_mask, q)
        k, v, mask = self._with_extra_keys(k, v, mask)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = dropout(softmax(_scores(q, k, mask), -1), p)
            y = matmul(weights, v)
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            if mask is not None and mask.dtype == torch.bool:
                mask = ~mask  # PyTorch's attention is told what to keep
            y = scaled_dot_product_attention(q, k, v, mask, p, by_hint)
        y = y.permute(0, 2, 1, 3) if batch_first else y.permute(2, 0, 1, 3)
        y = linear(y.flatten(2), self.out_proj.weight, self.out_proj.bias)
        return y if batched else y.squeeze(0), weights

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, batched: bool, batch_first: bool
    ) -> tuple[Tensor, ...]:
        """The projections of query, key and value, each (N, H, length, D)."""

        def heads(x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> tuple[Tensor, ...]:
            y = linear(x if batched else x.unsqueeze(0), weight, bias)
            y = y if batch_first else y.transpose(0, 1)
            y = y.unflatten(-1, (parts, self.num_heads, self.head_dim))
            return y.permute(2, 0, 3, 1, 4).contiguous().unbind(0)

        if self.in_proj_weight is not None and query is key and key is value:
            return heads(query, self.in_proj_weight, self.in_proj_bias, 3)
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs = zip((query, key, value), weights, biases, strict=True)
        return tuple(heads(*of, 1)[0] for of in inputs)

    def _with_extra_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``add_bias_kv`` and ``add_zero_attn``: more keys, which no mask takes out."""
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            shape = (1, self.num_heads, 1, self.head_dim)
            k, v = (
                torch.cat([x, bias.view(shape).expand(len(x), -1, -1, -1).to(x.dtype)], 2)
                for x, bias in ((k, self.bias_k), (v, self.bias_v))
            )
            extra += 1
        if self.add_zero_attn:
            k, v = (nn.functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
            extra += 1
        return k, v, nn.functional.pad(mask, (0, extra)) if extra and mask is not None else mask


def _scores(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    scores = matmul(q * q.size(-1) ** -0.5, k.mT)
    if mask is None:
        return scores
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _merged(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """What broadcasts to the (N, H, L, S) scores: bool, True for what is masked, or added."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, q.shape[:2]))
    if padding is not None:
        masks.append(padding[..., None, None, :])
    if not all(mask.dtype == torch.bool for mask in masks):
        masks = [_additive(mask, q.dtype) for mask in masks]
        return reduce(torch.add, masks)
    return reduce(torch.logical_or, masks) if masks else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)


def _check_shapes(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> None:
    if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
        dims = tuple(x.dim() for x in (query, key, value))
        raise ValueError(f"{_NAME} query, key and value must have 2 or 3 dimensions, got {dims}")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(
            f"{_NAME} key of shape {tuple(key.shape)} does not go with value of shape"
            f" {tuple(value.shape)}"
        )
    batch, length = (0, 1) if module.batch_first else (1, 0)
    if query.dim() == 2:
        N, L, S = 1, query.size(0), key.size(0)
    else:
        N, L, S = query.size(batch), query.size(length), key.size(length)
        if key.size(batch) != N:
            raise ValueError(f"{_NAME} query is a batch of {N}, key one of {key.size(batch)}")
    padding = ((N, S),) if query.dim() == 3 else ((S,),)
    shapes = ((L, S), (N * module.num_heads, L, S))
    for name, mask, allowed in (
        ("key_padding_mask", key_padding_mask, padding),
        ("attn_mask", attn_mask, shapes),
    ):
        if mask is None:
            continue
        if tuple(mask.shape) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise ValueError(f"{_NAME} {name} must be {expected}, got {tuple(mask.shape)}")
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise TypeError(f"{_NAME} {name} must be bool or floating, got {mask.dtype}")
