"""scaled_dot_product_attention, forward and backward."""

from collections.abc import Collection

import numpy as np

from fastdl import _core
from fastdl._tensors import takes_tensors
from fastdl._typing import Array, RngState
from fastdl.differentiate import VJP, vjp_rule


@takes_tensors
def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    out: Array | None = None,
) -> Array:
    """Attention, dropout(softmax(scale query key^T + attn_mask)) value.

    The semantics of `torch.nn.functional.scaled_dot_product_attention
    <https://docs.pytorch.org/docs/2.13/generated/torch.nn.functional.scaled_dot_product_attention.html>`_;
    the algorithm is that of FlashAttention (Dao et al. 2022): the (L, S) scores are never all in
    memory.

    Parameters
    ----------
    query : (..., H, L, E) 16-, 32- or 64-bit float array; leading dimensions broadcast.
    key : (..., H, S, E) array of query's dtype.
    value : (..., H, S, Ev) array of query's dtype.
    attn_mask : broadcasts to (..., H, L, S), with at least two dimensions, and is never expanded.
        Where a bool mask is False the key is left out; a float mask (query's dtype, or float32) is
        added to the scores.
    dropout_p : probability to drop an attention weight; applied always, as in torch.
    is_causal : query i sees the keys j <= i, whatever L and S; excludes attn_mask.
    scale : of the scores, 1 / sqrt(E) if None.
    enable_gqa : the heads of key and value, fewer than query's, serve H / H_key consecutive heads
        of query each.
    out : array of the result's shape and dtype to put it into; must not overlap the inputs.

    Returns
    -------
    (..., H, L, Ev) array. A query that may see no key gets 0. A key left out has weight 0: NaN or
    infinity in its value may still give NaN, as in torch.

    Raises
    ------
    TypeError : an array has another dtype, or the dtypes differ.
    ValueError : shapes do not fit; attn_mask together with is_causal; dropout_p is not in [0, 1];
        out is read-only, overlaps an input or has another shape.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> query, key = np.array([[0.0]]), np.array([[1.0], [2.0]])
    >>> fastdl.scaled_dot_product_attention(query, key, np.array([[1.0], [3.0]]))
    array([[2.]])
    """
    mask = _of_query_dtype(attn_mask, query)
    y: Array = _core.scaled_dot_product_attention_forward(
        query, key, value, mask, dropout_p, is_causal, scale, enable_gqa, out
    )[0]
    return y


def scaled_dot_product_attention_forward(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Array, Array, RngState]:
    """:func:`scaled_dot_product_attention`, with what its backward needs.

    Returns
    -------
    y : the result.
    logsumexp : (..., H, L) logarithm of the sum of exp(scores) of each query; 0 if it sees no key.
        float32 for 16-bit inputs.
    rng_state : of the dropout; weight i of the flattened (..., H, L, S) takes random word i.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> query, key = np.array([[0.0]]), np.array([[1.0], [2.0]])
    >>> y, logsumexp, _ = fastdl.scaled_dot_product_attention_forward(query, key, key)
    >>> logsumexp  # log(exp(0) + exp(0))
    array([0.69314718])
    """
    y, logsumexp, rng_state = _core.scaled_dot_product_attention_forward(
        query,
        key,
        value,
        _of_query_dtype(attn_mask, query),
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
    )
    return y, logsumexp, rng_state


def scaled_dot_product_attention_backward(
    dy: Array,
    query: Array,
    key: Array,
    value: Array,
    y: Array,
    logsumexp: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    rng_state: RngState = (0, 0),
    output_mask: tuple[bool, bool, bool, bool] = (True, True, True, True),
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """Gradients of :func:`scaled_dot_product_attention`.

    With s the scores, p = exp(s - logsumexp) and d the factors of the dropout:
    dvalue = (p d)^T dy;  ds = p ((dy value^T) d - rowsum(dy y));  dquery = scale ds key;
    dkey = scale ds^T query;  dattn_mask = ds, each summed over what its array was broadcast along.

    Parameters
    ----------
    dy : gradient of y, of its shape and dtype.
    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa : as in forward.
    y, logsumexp, rng_state : what :func:`scaled_dot_product_attention_forward` returned.
    output_mask : which gradients to compute.

    Returns
    -------
    (dquery, dkey, dvalue, dattn_mask), None where output_mask is False; without a float mask
    dattn_mask is None.

    Raises
    ------
    TypeError, ValueError : as in forward, and if dy, y or logsumexp do not fit.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> query, key = np.array([[0.0]]), np.array([[1.0], [2.0]])
    >>> y, logsumexp, _ = fastdl.scaled_dot_product_attention_forward(query, key, key)
    >>> dy = np.ones((1, 1))
    >>> dquery, dkey, dvalue, _ = fastdl.scaled_dot_product_attention_backward(
    ...     dy, query, key, key, y, logsumexp
    ... )
    >>> dquery
    array([[0.25]])
    """
    dquery, dkey, dvalue, dattn_mask = _core.scaled_dot_product_attention_backward(
        dy,
        query,
        key,
        value,
        y,
        logsumexp,
        _of_query_dtype(attn_mask, query),
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        rng_state,
        output_mask,
    )
    if dattn_mask is not None and attn_mask is not None:
        dattn_mask = dattn_mask.astype(attn_mask.dtype.newbyteorder("="), copy=False)
    return dquery, dkey, dvalue, dattn_mask


def _of_query_dtype(attn_mask: Array | None, query: Array) -> Array | None:
    """torch takes a float32 mask for any query."""
    dtypes = (getattr(attn_mask, "dtype", None), getattr(query, "dtype", None))
    if attn_mask is not None and dtypes == (np.float32, np.float64):
        return attn_mask.astype(np.float64)
    return attn_mask


@vjp_rule(scaled_dot_product_attention)
def _scaled_dot_product_attention_vjp(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> VJP:
    options = (attn_mask, dropout_p, is_causal, scale, enable_gqa)
    y, logsumexp, rng_state = scaled_dot_product_attention_forward(query, key, value, *options)

    def pullback(dy: Array, wrt: Collection[str]) -> dict[str, Array | None]:
        gradients = scaled_dot_product_attention_backward(
            dy,
            query,
            key,
            value,
            y,
            logsumexp,
            *options,
            rng_state,
            ("query" in wrt, "key" in wrt, "value" in wrt, "attn_mask" in wrt),
        )
        return dict(zip(("query", "key", "value", "attn_mask"), gradients, strict=True))

    return y, pullback
