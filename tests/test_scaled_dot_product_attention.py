import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from fastdl import scaled_dot_product_attention as attention
from fastdl import scaled_dot_product_attention_backward as attention_backward
from fastdl import scaled_dot_product_attention_forward as attention_forward
from tests.testing import (
    LENGTHS,
    Guarded,
    assert_close,
    assert_kernel,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    num_threads,
    random,
)

# query, key, value
SHAPES = [
    *[((1, 2, n, 5), (1, 2, 7, 5), (1, 2, 7, 3)) for n in LENGTHS if n < 1000],  # owned queries
    *[((1, 1, 3, 4), (1, 1, n, 4), (1, 1, n, 2)) for n in LENGTHS if n < 1000],  # streamed keys
    *[((2, 3, n), (2, 4, n), (2, 4, 5)) for n in LENGTHS if n < 1000],  # E
    *[((2, 3, 5), (2, 4, 5), (2, 4, n)) for n in LENGTHS if n < 1000],  # Ev
    ((1, 2, 67, 64), (1, 2, 131, 64), (1, 2, 131, 65)),  # several blocks of both
    ((1, 1, 200, 9), (1, 1, 70, 9), (1, 1, 70, 9)),  # more queries than keys
    ((1, 300, 256), (1, 259, 256), (1, 259, 256)),
    ((5, 4), (6, 4), (6, 3)),  # no leading dimensions
    ((2, 1, 2, 1, 3), (2, 1, 2, 2, 3), (2, 1, 2, 2, 3)),
    ((1, 2, 2, 3), (2, 1, 4, 3), (4, 3)),  # broadcast batch and heads
    ((5, 3), (5, 3), (2, 3, 5, 4)),  # broadcast to the batch of value: the scores are shared
    ((3, 5, 3), (5, 3), (3, 5, 4)),  # key and value differ in what shares them
    ((0, 2, 3, 4), (0, 2, 5, 4), (0, 2, 5, 4)),
    ((0, 2, 3, 4), (1, 2, 5, 4), (2, 5, 4)),  # an empty batch leaves dkey and dvalue 0
    ((2, 3, 4), (2, 3, 4), (0, 1, 3, 4)),
]


def operands(dtype, *shapes):
    return [None if s is None else random(s, dtype, seed=i) for i, s in enumerate(shapes)]


def gradients(inputs, dy, **options):
    """Forward and backward of fastdl: y, logsumexp and the four gradients."""
    y, logsumexp, rng_state = attention_forward(*inputs, **options)
    query, key, value, *mask = inputs
    return (
        y,
        logsumexp,
        *attention_backward(
            dy, query, key, value, y, logsumexp, *mask, rng_state=rng_state, **options
        ),
    )


def check(inputs, dtype, **options):
    """Everything fastdl computes, against the reference."""
    fastdl.manual_seed(7)
    inputs = [*inputs, None] if len(inputs) == 3 else inputs
    query, key, value, mask = inputs
    y64, logsumexp64 = reference.scaled_dot_product_attention_forward(
        *inputs, rng_state=(7, 0), **options
    )
    dy = random(y64.shape, dtype, seed=9)
    expected = reference.scaled_dot_product_attention_backward(
        dy, query, key, value, y64, logsumexp64, mask, rng_state=(7, 0), **options
    )
    y, logsumexp, *actual = gradients(inputs, dy, **options)
    assert y.dtype == logsumexp.dtype == dtype
    factor = 2.0 if dtype == np.float64 else 1.0  # the reference rounds as much
    assert_close(y, y64, factor=factor)
    if y.size:  # without a batch logsumexp is 0
        assert_close(logsumexp, logsumexp64, scale=max(1.0, np.max(np.abs(logsumexp64))))
    for gradient, gradient64 in zip(actual, expected, strict=True):
        if gradient64 is None:
            assert gradient is None
            continue
        assert gradient.dtype == dtype
        # ds = p (dp - delta) cancels: its error scales with dp, a sum of Ev products of unit size.
        # A mask may sum it over all queries, whose errors add up like their square root.
        scale = np.sqrt(1.0 + value.shape[-1])
        if gradient is actual[3]:
            scale *= np.sqrt(logsumexp.size)
        scale = max(scale, np.max(np.abs(gradient64), initial=0.0))
        assert_close(gradient, gradient64, scale=scale, factor=factor)


@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(("query", "key", "value"), SHAPES, ids=str)
def test_shapes(isa, dtype, query, key, value, is_causal):
    check(operands(dtype, query, key, value), dtype, is_causal=is_causal)


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        ((1, 2, 0, 4), (1, 2, 5, 4), (1, 2, 5, 4)),
        ((1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 4)),
        ((1, 2, 3, 0), (1, 2, 5, 0), (1, 2, 5, 4)),
        ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 0)),
    ],
    ids=["no queries", "no keys", "E is 0", "Ev is 0"],
)
@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
def test_empty(isa, dtype, query, key, value, is_causal):
    check(operands(dtype, query, key, value), dtype, is_causal=is_causal)


@pytest.mark.parametrize("scale", [0.0, 0.3, -1.0, np.nan])
def test_scale(isa, dtype, scale):
    check(operands(dtype, (2, 9, 4), (2, 17, 4), (2, 17, 4)), dtype, scale=scale)


@pytest.mark.parametrize("heads", [(4, 4), (2, 2), (1, 1), (2, 1)], ids=str)
def test_grouped_query_heads(isa, dtype, heads):
    shapes = [(2, 4, 9, 5), (2, heads[0], 70, 5), (2, heads[1], 70, 3)]
    check(operands(dtype, *shapes), dtype, enable_gqa=True)
    check(operands(dtype, shapes[0][1:], *shapes[1:]), dtype, enable_gqa=True, is_causal=True)


DECODE = [
    ((2, 8, 1, 20), (2, 2, 1100, 20), (2, 2, 1100, 70)),  # several pieces of keys, groups of 4
    ((3, 4, 131), (3, 150, 131), (3, 150, 5)),  # 4 queries a head
    ((2, 4, 3, 16), (2, 1, 517, 16), (2, 1, 517, 64)),
    ((1, 1, 4, 3), (1, 1, 0, 3), (1, 1, 0, 4)),
]


@pytest.mark.parametrize("shapes", DECODE, ids=str)
@pytest.mark.parametrize("mask", [None, "causal", "bool", "additive", "additive row"])
def test_few_queries(isa, dtype, shapes, mask):
    inputs = operands(dtype, *shapes)
    L, S = shapes[0][-2], shapes[1][-2]
    if mask not in (None, "causal"):
        inputs.append(random((1, S) if mask == "additive row" else (L, S), dtype, seed=5))
    if mask == "bool":
        inputs[3] = (inputs[3] > 0) & (np.arange(S) < S - 600)  # no key of the last piece
    options = {"is_causal": mask == "causal", "enable_gqa": len(shapes[0]) == 4}
    check(inputs, dtype, **options)
    assert_kernel("flash decode")
    attention(*inputs, **options)
    assert_kernel("flash decode")


@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        (((1, 17, 1, 4), (1, 1, 9, 4), (1, 1, 9, 4)), {"enable_gqa": True}),  # 17 rows a group
        (((5, 4), (9, 4), (9, 4)), {}),  # 5 queries
        (((1, 4), (9, 4), (9, 4)), {"dropout_p": 0.5}),
        (((1, 4), (2, 9, 4), (2, 9, 4)), {}),  # the query is shared
        (((2, 1, 4), (9, 4), (2, 9, 4)), {}),  # key and value differ in what shares them
    ],
    ids=str,
)
def test_what_the_decode_kernel_does_not_take(isa, dtype, shapes, options):
    check(operands(dtype, *shapes), dtype, **options)
    assert_kernel("flash, ")


def test_few_queries_and_gradients_beyond_the_caches(isa):
    inputs = operands(np.float32, (8, 2, 1, 64), (8, 1, 5000, 64), (8, 1, 5000, 64))
    check(inputs, np.float32, enable_gqa=True)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.2}], ids=str)
@pytest.mark.parametrize("key_heads", [6, 3])
def test_backward_of_many_heads(isa, dtype, options, key_heads):
    kernel = "flash, parts of heads"
    heads = (2 * 12 // key_heads, key_heads)
    shapes = [(heads[0], 6, 150, 16), (heads[0], key_heads, 131, 16), (heads[0], key_heads, 131, 5)]
    check(operands(dtype, *shapes), dtype, enable_gqa=True, **options)
    assert_kernel(kernel)
    check(operands(dtype, *(s[1:] for s in shapes)), dtype, enable_gqa=True, **options)
    assert_kernel(kernel)  # in 2 or 3 parts


def test_a_long_head_is_not_cut_into_parts():  # whose gradients would take more than 48 MB
    y = np.zeros((1, 20_000, 64), np.float32)
    key = np.zeros((1, 704, 64), np.float32)
    attention_backward(y, y, key, key, y, y[..., 0])
    assert "owned rows" in _core.last_trace()["kernel"]


MASKS = [(2, 3, 67, 131), (2, 1, 67, 131), (1, 3, 1, 131), (3, 67, 1), (67, 131), (67, 1)]
MASKS += [(1, 131), (1, 1)]


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_mask(isa, dtype, shape, kind):
    inputs = operands(dtype, (2, 3, 67, 8), (2, 3, 131, 8), (2, 3, 131, 5), shape)
    inputs[3] = inputs[3] > -0.5 if kind == "bool" else inputs[3]
    check(inputs, dtype)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_a_query_that_sees_no_key_gives_zero(isa, dtype, kind):
    inputs = operands(dtype, (2, 20, 4), (2, 150, 4), (2, 150, 4))
    mask = np.ones((20, 150), bool)
    mask[[0, 17]] = False
    mask[3, :140] = False  # nothing in the first block of keys
    mask[4, 5:] = False  # nothing in the second
    if kind == "additive":
        mask = np.where(mask, 0, -np.inf).astype(dtype)
    check([*inputs, mask], dtype)
    y, logsumexp, _ = attention_forward(*inputs, mask)
    assert np.all(y[:, [0, 17]] == 0) and np.all(logsumexp[:, [0, 17]] == 0)


@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
def test_dropout(isa, dtype, p, is_causal):
    shapes = [(2, 2, 67, 4), (2, 1, 131, 4), (2, 1, 131, 5)]
    check(operands(dtype, *shapes), dtype, dropout_p=p, is_causal=is_causal, enable_gqa=True)
    assert fastdl.get_rng_state() == (7, 2 * 2 * 67 * 131 // 4 + (2 * 2 * 67 * 131 % 4 > 0))
    if not is_causal:
        check(operands(dtype, *shapes, (1, 131)), dtype, dropout_p=p, enable_gqa=True)


@pytest.mark.parametrize("where", ["query", "key", "value", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e4, -0.0, 1e-45])
@pytest.mark.parametrize("row", [0, 18])  # in the vector body and in the tail
def test_special_values(isa, dtype, where, value, row):
    inputs = operands(dtype, (1, 19, 4), (1, 19, 4), (1, 19, 4), (19, 19))
    array = inputs[["query", "key", "value", "mask"].index(where)]
    array[..., row, 1] = value
    with np.errstate(all="ignore"):
        y64, _ = reference.scaled_dot_product_attention_forward(*inputs)
        # scores of size 1e4 have an error of 1e4 eps, and so have their exponentials
        factor = 1e4 if value == 1e4 and where in ("query", "key") else 1.0
        assert_close(attention(*inputs), y64, factor=factor)


def test_keys_of_the_future_are_not_seen_even_if_nan(isa, dtype):
    inputs = operands(dtype, (70, 4), (70, 4), (70, 4))
    expected = attention(*inputs, is_causal=True)
    inputs[1][69] = np.nan
    y = attention(*inputs, is_causal=True)
    assert_same_bits(y[:69], expected[:69])
    assert np.isnan(y[69]).all()


@pytest.mark.parametrize("mask", [None, "additive", "bool"])
@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
def test_against_torch(torch, dtype, mask, is_causal):
    if mask and is_causal:
        return
    inputs = operands(dtype, (2, 4, 70, 16), (2, 2, 80, 16), (2, 2, 80, 8), mask and (70, 80))
    if mask == "bool":
        inputs[3] = inputs[3] > 0
    tensors = [
        None if x is None else torch.tensor(x, requires_grad=x.dtype != bool) for x in inputs
    ]
    options = {"is_causal": is_causal, "enable_gqa": True}
    yt = torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
    dy = random(yt.shape, dtype, seed=9)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(attention, *inputs, **options)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    for gradient, tensor in zip(pullback(dy), [t for t in tensors if t is not None], strict=True):
        if tensor.requires_grad:
            assert_close(gradient, tensor.grad.numpy(), factor=4)


def test_a_float32_mask_serves_float64_as_in_torch(torch):
    inputs = [*operands(np.float64, (3, 4), (5, 4), (5, 4)), random((3, 5), np.float32)]
    y, pullback = fastdl.vjp(attention, *inputs)
    yt = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, inputs))
    assert_close(y, yt.numpy(), factor=2)
    assert pullback(y)[3].dtype == np.float32


def test_any_layout(dtype):
    inputs = operands(dtype, (2, 6, 4), (2, 7, 4), (2, 7, 4), (2, 6, 7))
    for i in range(4):
        for array in [*layouts(inputs[i]).values(), broadcast_of(inputs[i])]:
            changed = [*inputs[:i], array, *inputs[i + 1 :]]
            plain = [*inputs[:i], np.ascontiguousarray(array, dtype), *inputs[i + 1 :]]
            assert_same_bits(attention(*changed), attention(*plain))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.2}], ids=str)
@pytest.mark.parametrize(("B", "L", "S"), [(2, 150, 170), (2, 2, 1700), (6, 70, 150)])
def test_same_bits_for_any_threads(isa, dtype, options, B, L, S):
    inputs = operands(dtype, (B, 4, L, 16), (B, 2, S, 16), (B, 2, S, 16))
    inputs.append(None if options else random((1, S), dtype))
    dy = random((B, 4, L, 16), dtype, seed=9)

    def run():
        fastdl.manual_seed(1)
        return gradients(inputs, dy, enable_gqa=True, **options)

    assert_same_bits_for_any_threads(run)


def test_output_mask(dtype):
    inputs = operands(dtype, (2, 5, 4), (2, 6, 4), (6, 4), (5, 6))
    y, logsumexp, _ = attention_forward(*inputs)
    query, key, value, mask = inputs
    everything = attention_backward(y, query, key, value, y, logsumexp, mask)
    for wanted in np.ndindex(2, 2, 2, 2):
        wanted = tuple(map(bool, wanted))
        some = attention_backward(y, query, key, value, y, logsumexp, mask, output_mask=wanted)
        assert_same_bits(some, [g if w else None for g, w in zip(everything, wanted, strict=True)])


def test_out(isa, dtype):
    inputs = operands(dtype, (2, 19, 4), (2, 21, 4), (2, 21, 7))
    guarded = Guarded((2, 19, 7), dtype)
    assert attention(*inputs, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, attention(*inputs))
    strided = np.zeros((7, 19, 2), dtype).T
    assert_same_bits(attention(*inputs, out=strided), guarded.array)
    with pytest.raises(ValueError, match="out shares memory with value"):
        attention(inputs[0], inputs[1], guarded.array[:, :1], out=guarded.array)


def test_errors():
    f = "scaled_dot_product_attention"
    query, key, value = operands(np.float64, (2, 3, 4), (2, 5, 4), (2, 5, 6))
    assert_rejects_bad_arrays(lambda bad: attention(bad, key, value), query)
    assert_rejects_bad_arrays(lambda bad: attention(query, key, bad), value)
    mask = np.ones((3, 5))
    for arguments, options, error, match in [
        ((query[0, 0], key, value), {}, ValueError, "query must have at least 2 dimensions"),
        ((query, key[..., 1:], value), {}, ValueError, "key has 3 features, query has 4"),
        ((query, key, value[:, 1:]), {}, ValueError, "value has 4 rows, key has 5"),
        ((query, key[[0, 0, 0]], value), {}, ValueError, "of query and key do not broadcast"),
        ((query, key, value[[0, 0, 0]]), {}, ValueError, "the scores and value do not broadcast"),
        ((query, key.astype(np.float32), value), {}, TypeError, "key is float32, query is float64"),
        ((query, key, value, mask), {"is_causal": True}, ValueError, "attn_mask must be None"),
        ((query, key, value, mask[0]), {}, ValueError, "does not broadcast to the scores'"),
        ((query, key, value, mask[1:]), {}, ValueError, "does not broadcast to the scores'"),
        ((query, key, value, mask[None, None]), {}, ValueError, "does not broadcast to the"),
        ((query, key, value, mask.astype(int)), {}, TypeError, "attn_mask must be a bool"),
        ((query, key, value), {"dropout_p": 1.5}, ValueError, "must be between 0 and 1"),
        ((query, key[[0, 0, 0]], value), {"enable_gqa": True}, ValueError, "3 heads of key"),
        ((query[0], key[0], value[0]), {"enable_gqa": True}, ValueError, "a dimension of heads"),
        ((query, key, value), {"out": np.zeros((2, 3, 4))}, ValueError, "out must have shape"),
    ]:
        with pytest.raises(error, match=rf"^\[{f}\] .*{match}"):
            attention(*arguments, **options)
    single = [x.astype(np.float32) for x in (query, key, value)]
    with pytest.raises(TypeError, match="attn_mask must be bool or float32 like query"):
        attention(*single, mask)
    y, logsumexp, _ = attention_forward(query, key, value)
    for dy_, y_, logsumexp_, name in [
        (y[1:], y, logsumexp, "dy"),
        (y, y[1:], logsumexp, "y"),
        (y, y, y, "logsumexp"),
    ]:
        with pytest.raises(ValueError, match=f"{name} must have shape"):
            attention_backward(dy_, query, key, value, y_, logsumexp_)


def test_trace_and_one_block_on_any_number_of_threads():
    inputs = operands(np.float32, (2, 8, 4), (2, 8, 4), (2, 8, 4))
    with num_threads(2):
        attention(*inputs)
    trace = _core.last_trace()
    assert trace["kernel"].startswith("flash") and trace["flops"] == 2 * 2 * 8 * 8 * 8
