"""Attention of sizes that AMX's tiles take, on every instruction set."""

import numpy as np
import pytest

import fastdl
from fastdl import reference
from fastdl import scaled_dot_product_attention as attention
from tests.test_scaled_dot_product_attention import check, gradients, operands
from tests.test_scaled_dot_product_attention_half import check as check_half
from tests.testing import (
    assert_close,
    assert_kernel,
    assert_same_bits_for_any_threads,
    num_threads,
    random,
)

# query, key, value
CASES = {
    "ViT": ((1, 2, 197, 64), (1, 2, 197, 64), (1, 2, 197, 64)),
    "odd features": ((1, 2, 445, 72), (1, 1, 331, 72), (1, 1, 331, 91)),
    "several blocks": ((1, 1, 1023, 64), (1, 1, 1023, 64), (1, 1, 1023, 64)),
    "more queries than keys": ((2, 600, 128), (2, 265, 128), (2, 265, 160)),
}


def assert_tiles(isa):
    assert_kernel("flash, products of bfloat16 on tiles" if isa == "amx" else "flash, lanes")


@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("case", CASES)
def test_shapes(cpu_isa, case, is_causal):
    inputs = operands(np.float32, *CASES[case])
    options = {"is_causal": is_causal, "enable_gqa": len(CASES[case][0]) == 4}
    attention(*inputs, **options)
    if not is_causal or case != "ViT":  # too few scores
        assert_tiles(cpu_isa)
    check(inputs, np.float32, **options)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.4}], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_half(half, case, options):
    inputs = [random(s, half, seed=i) for i, s in enumerate(CASES[case])]
    options = {"enable_gqa": inputs[0].ndim == 4, **options}
    check_half(half, [*inputs, None], **options)


@pytest.mark.parametrize("mask_dtype", [bool, np.float32, None], ids=str)
def test_mask_of_halves(half, mask_dtype):
    inputs = [random((2, 150, 64), half, seed=i) for i in range(3)]
    mask = random((2, 150, 150), np.float32, seed=3)
    inputs.append(mask > 0 if mask_dtype is bool else mask.astype(mask_dtype or half))
    check_half(half, inputs)
    attention(*inputs)
    same = mask_dtype is not np.float32  # tiles take no mask of another dtype than query
    assert_tiles("amx" if same and fastdl.get_isa() == "amx" else "")


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize("shape", [(2, 1, 145, 331), (1, 331), (145, 1)], ids=str)
def test_mask(cpu_isa, shape, kind):
    inputs = operands(np.float32, (2, 2, 145, 64), (2, 2, 331, 64), (2, 2, 331, 64), shape)
    mask = inputs[3] > -0.5
    mask[..., 7 % shape[-2], : 140 if shape[-1] > 1 else 1] = False  # a block of keys, or all
    inputs[3] = mask if kind == "bool" else np.where(mask, inputs[3], np.float32(-np.inf))
    check(inputs, np.float32)
    attention(*inputs)
    assert_tiles(cpu_isa)


@pytest.mark.parametrize("scale", [0.0, 3.0, -1.0, np.nan])
def test_scale(cpu_isa, scale):
    inputs = operands(np.float32, (1, 150, 64), (1, 170, 64), (1, 170, 64))
    y64, _ = reference.scaled_dot_product_attention_forward(*inputs, scale=scale)
    # scores have an error of eps times their size, and so have their exponentials
    assert_close(attention(*inputs, scale=scale), y64, factor=8 * max(1.0, abs(scale)))


@pytest.mark.parametrize("where", ["query", "key", "value", "mask"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e4, 1e37, -0.0, 1e-37, 1e-45])
def test_special_values(cpu_isa, where, value):
    inputs = operands(np.float32, (1, 150, 64), (1, 170, 64), (1, 170, 64), (150, 170))
    inputs[["query", "key", "value", "mask"].index(where)][..., 129, 1] = value
    with np.errstate(all="ignore"):
        y64, _ = reference.scaled_dot_product_attention_forward(*inputs)
    factor = 1e4 if abs(value) >= 1e4 and where in ("query", "key") else 1.0
    assert_close(attention(*inputs), y64, factor=factor)
    assert_tiles(cpu_isa)


@pytest.mark.parametrize(
    ("sizes", "scale"),
    [
        ((1e-30, 1.0, 1.0), 1e30),
        ((1e-42, 1e10, 1.0), 1e31),
        ((1e15, 1e15, 1.0), 1e-30),
        ((1e15, 1e-16, 1.0), None),
        ((1.0, 1.0, 1e-38), None),
        ((1.0, 1.0, 1e37), None),
    ],
    ids=str,
)
def test_range(cpu_isa, sizes, scale):
    inputs = operands(np.float32, (1, 150, 64), (1, 170, 64), (1, 170, 64))
    inputs[:3] = [(x * size).astype(np.float32) for x, size in zip(inputs, sizes, strict=False)]
    y64, _ = reference.scaled_dot_product_attention_forward(*inputs, scale=scale)
    size = sizes[0] * sizes[1] * (scale or 1 / 8)
    y = attention(*inputs, scale=scale)
    # a denormal result is rounded to 1e-45
    assert_close(y, y64, factor=max(16.0, 16 * size) * (1e4 if sizes[2] < 1e-30 else 1))
    assert_tiles(cpu_isa)


@pytest.mark.parametrize("masked", [False, True])
def test_scores_far_below_zero(cpu_isa, masked):
    query = np.full((1, 150, 64), 2.0**50, np.float32)
    key = np.repeat(-(2.0**50) * np.arange(2, 172), 64).reshape(1, 170, 64).astype(np.float32)
    value, mask = random((1, 170, 64), np.float32), np.zeros((150, 170), np.float32)
    y = attention(query, key, value, mask if masked else None, scale=2.0**-70)
    assert_close(y, np.broadcast_to(value[:, :1], y.shape))


def test_weights_far_below_the_largest(cpu_isa):
    """Less than 2^-60 of it may count as zero."""
    inputs = operands(np.float32, (1, 150, 64), (1, 170, 64), (1, 170, 64))
    y64, logsumexp64 = reference.scaled_dot_product_attention_forward(*inputs, scale=40.0)
    y, logsumexp, _ = fastdl.scaled_dot_product_attention_forward(*inputs, scale=40.0)
    assert_close(y, y64, factor=40 * 8)
    assert_close(logsumexp, logsumexp64, factor=8)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_dropout(cpu_isa, options):
    inputs = operands(np.float32, (1, 2, 150, 64), (1, 2, 331, 64), (1, 2, 331, 64))
    check(inputs, np.float32, dropout_p=0.4, **options)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_same_bits_for_any_threads(cpu_isa, options):
    inputs = operands(np.float32, (3, 300, 64), (3, 300, 64), (3, 300, 64))
    dy = random((3, 300, 64), np.float32, seed=9)
    assert_same_bits_for_any_threads(lambda: gradients(inputs, dy, **options))
    with num_threads(2):
        check(inputs, np.float32, **options)
