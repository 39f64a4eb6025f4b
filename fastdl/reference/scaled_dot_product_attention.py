"""y = dropout(softmax(s)) @ value,  s = scale * query @ key^T + attn_mask,  scale = 1 / sqrt(E).

query (..., H, L, E), key (..., H, S, E), value (..., H, S, Ev); the leading dims broadcast, and may
be fewer. attn_mask broadcasts to s: where a boolean mask is False it adds -inf. ``is_causal`` keeps
key j for query i only if j <= i, for any L and S. ``enable_gqa`` repeats each head of key and value
for the H / H_key consecutive query heads it serves. logsumexp (..., H, L) is that of s.
A query that may attend to no key (or S = 0) has y = 0 and logsumexp = 0, as in torch on the CPU.

Backward, with p = exp(s - logsumexp) = softmax(s) and d the factors of the dropout:
dvalue = (p * d)^T @ dy;  dp = (dy @ value^T) * d;  ds = p * (dp - rowsum(dy * y));
dquery = scale * ds @ key;  dkey = scale * ds^T @ query;  dattn_mask = ds,
each summed over the dims it was broadcast along. rowsum(dy * y) equals rowsum(p * dp): Dao et al.,
"FlashAttention" (2022), appendix B.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdl.reference.dropout import dropout_forward
from fastdl.reference.matmul import _sum_to

Array = NDArray[np.float64]


@np.errstate(divide="ignore", invalid="ignore")
def scaled_dot_product_attention_forward(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    rng_state: tuple[int, int] = (0, 0),
) -> tuple[Array, Array]:
    """(y, logsumexp)"""
    q, k, v = _operands(query, key, value, enable_gqa)
    s = _scores(_scale(q, scale) * q, k, attn_mask, is_causal)
    largest = np.max(s, axis=-1, keepdims=True, initial=-np.inf)
    largest = np.where(largest == -np.inf, 0, largest)
    exp = np.exp(s - largest)
    total = np.sum(exp, axis=-1, keepdims=True)
    total = np.where(total == 0, 1, total)  # no key to attend to
    p = exp / total
    y = (p * _dropout_factors(s.shape, dropout_p, rng_state)) @ v
    return y, np.squeeze(largest + np.log(total), -1)


@np.errstate(divide="ignore", invalid="ignore")
def scaled_dot_product_attention_backward(
    dy: ArrayLike,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    y: ArrayLike,
    logsumexp: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    rng_state: tuple[int, int] = (0, 0),
) -> tuple[Array, Array, Array, Array | None]:
    """(dquery, dkey, dvalue, dattn_mask); the last is None without an additive mask."""
    dy, y, logsumexp = (np.asarray(a, np.float64) for a in (dy, y, logsumexp))
    q, k, v = _operands(query, key, value, enable_gqa)
    factor = _scale(q, scale)
    s = _scores(factor * q, k, attn_mask, is_causal)
    p = np.exp(s - logsumexp[..., None])
    d = _dropout_factors(s.shape, dropout_p, rng_state)
    dv = (p * d).swapaxes(-1, -2) @ dy
    dp = _sum_to(dy @ v.swapaxes(-1, -2), s.shape) * d
    ds = p * (dp - _sum_to(np.sum(dy * y, axis=-1, keepdims=True), (*s.shape[:-1], 1)))
    dq = factor * (ds @ k)
    dk = ds.swapaxes(-1, -2) @ (factor * q)
    dmask = None
    if attn_mask is not None and np.asarray(attn_mask).dtype != np.bool_:
        dmask = _sum_to(ds, np.shape(attn_mask))
    return (
        _sum_to(dq, q.shape),
        _sum_heads(_sum_to(dk, k.shape), np.shape(key)),
        _sum_heads(_sum_to(dv, v.shape), np.shape(value)),
        dmask,
    )


def _operands(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, enable_gqa: bool
) -> tuple[Array, Array, Array]:
    q, k, v = (np.asarray(a, np.float64) for a in (query, key, value))
    if enable_gqa:
        k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    return q, k, v


def _scale(q: Array, scale: float | None) -> float:
    return float(np.divide(1, np.sqrt(q.shape[-1]))) if scale is None else scale


def _scores(q: Array, k: Array, attn_mask: ArrayLike | None, is_causal: bool) -> Array:
    if attn_mask is not None and is_causal:
        raise ValueError("attn_mask must be None when is_causal is True")
    s: Array = q @ k.swapaxes(-1, -2)
    if is_causal:
        return np.where(np.tri(*s.shape[-2:], dtype=np.bool_), s, -np.inf)
    if attn_mask is None:
        return s
    mask = np.asarray(attn_mask)
    if mask.dtype == np.bool_:
        mask = np.where(mask, 0, -np.inf)
    return np.asarray(s + mask.astype(np.float64))


def _dropout_factors(shape: tuple[int, ...], p: float, rng_state: tuple[int, int]) -> Array:
    return dropout_forward(np.ones(shape), p, rng_state) if p > 0 else np.ones(1)


def _sum_heads(dx: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of repeating heads, from ``shape`` to that of dx."""
    if dx.shape == shape:
        return dx
    repeats = dx.shape[-3] // shape[-3]
    return np.asarray(dx.reshape(*shape[:-2], repeats, *shape[-2:]).sum(axis=-3))
