"""linear where a factor is packed whole: a constant weight, a few rows of x, columns of dy."""

import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    random,
)

FEW_ROWS = [
    ((9, 257), (150, 257)),
    ((16, 530), (256, 530)),  # more terms than are summed up at once
    ((2, 17, 33), (1100, 33)),  # more rows of the weight than a block has
    ((50, 40), (801, 40)),
    ((64, 1), (1024, 1)),
]
SHAPES = [
    *FEW_ROWS,
    ((2, 4), (5, 4)),
    ((130, 70), (300, 70)),
    ((3, 0), (5, 0)),
    ((0, 4), (5, 4)),
    ((3, 4), (0, 4)),
    ((2, 70001), (3, 70001)),  # k in parts
]
IDS = {"ids": lambda shape: "x".join(map(str, shape))}


def kernel():
    return _core.last_trace()["kernel"]


def make_inputs(x_shape, weight_shape, dtype):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    residual = random((*x_shape[:-1], weight_shape[0]), dtype, seed=3)
    return x, weight, random(weight_shape[:1], dtype, seed=2), residual


def assert_linear(y, x, weight, bias, **options):
    expected = reference.linear_forward(x, weight, bias, **options)
    assert_close(y, expected, scale=4 * np.sqrt(max(x.shape[-1], 1)))


@pytest.mark.parametrize(("x_shape", "weight_shape"), FEW_ROWS, **IDS)
def test_few_rows(cpu_isa, dtype, x_shape, weight_shape):
    x, weight, bias, residual = make_inputs(x_shape, weight_shape, dtype)
    for options in ({}, {"activation": "relu"}, {"activation": "gelu", "residual": residual}):
        for b in (None, bias, bias[:1]):
            y = fastdl.linear(x, weight, b, **options)
            assert kernel() == "gemm, a few rows packed, the other matrix as it lies"
            assert_linear(y, x, weight, b, **options)
    guarded = Guarded(y.shape, dtype)
    fastdl.linear(x, weight, bias, out=guarded.array)
    guarded.check()
    assert_linear(guarded.array, x, weight, bias)


@pytest.mark.parametrize(
    ("rows", "out"), [(65, 1040), (64, 1023), (9, 143)], ids=["rows", "ratio", "small"]
)
def test_too_many_rows(rows, out):
    fastdl.linear(random((rows, 33)), random((out, 33)))
    assert kernel() == "gemm, packed strips and register tiles"


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES, **IDS)
def test_packed_weight(cpu_isa, dtype, x_shape, weight_shape):
    x, weight, bias, residual = make_inputs(x_shape, weight_shape, dtype)
    given = weight.copy()
    packed = fastdl.pack_linear_weight(given)
    given[...] = 0  # the packed one is a copy
    for options in ({}, {"activation": "relu", "residual": residual}):
        for b in (None, bias):
            y = fastdl.linear(x, packed, b, **options)
            assert kernel() == ("gemm, weight packed" if y.size else "nothing to do")
            assert_linear(y, x, weight, b, **options)
    guarded = Guarded(y.shape, dtype)
    assert fastdl.linear(x, packed, bias, out=guarded.array) is guarded.array
    guarded.check()
    assert_linear(guarded.array, x, weight, bias)


def test_packed_weight_for_another_kernel(dtype):
    x, weight, bias, _ = make_inputs((40, 33), (48, 33), dtype)
    before = fastdl.get_isa()
    for isa in fastdl.supported_isas():
        fastdl.set_isa(isa)
        packed = fastdl.pack_linear_weight(weight)
        for other in fastdl.supported_isas():
            fastdl.set_isa(other)
            assert_linear(fastdl.linear(x, packed, bias), x, weight, bias)
            same = {"amx": "avx512"}.get(isa, isa) == {"amx": "avx512"}.get(other, other)
            assert (kernel() == "gemm, weight packed") == same
    fastdl.set_isa(before)
    y = fastdl.linear(x[0], packed)
    assert kernel() == "dots, rows times a few columns"
    assert_same_bits(y, fastdl.linear(x[0], weight))


def test_special_values(cpu_isa, dtype):
    for rows in (17, 200):
        x, weight, bias, _ = make_inputs((rows, 20), (300, 20), dtype)
        x[1, 3], weight[2, 3], weight[299, 0], bias[7] = np.inf, 0, np.nan, -np.inf
        with np.errstate(invalid="ignore"):
            expected = reference.linear_forward(x, weight, bias)
        assert_close(fastdl.linear(x, weight, bias), expected)
        assert_close(fastdl.linear(x, fastdl.pack_linear_weight(weight), bias), expected)


@pytest.mark.parametrize(("x_shape", "weight_shape"), [FEW_ROWS[1], ((150, 600), (500, 600))])
def test_same_bits_for_any_threads(cpu_isa, dtype, x_shape, weight_shape):
    x, weight, bias, residual = make_inputs(x_shape, weight_shape, dtype)
    assert_same_bits_for_any_threads(
        lambda: [
            fastdl.linear(x, w, bias, residual=residual)
            for w in (weight, fastdl.pack_linear_weight(weight))
        ]
    )


def test_16_bit_weights_are_not_packed(half):
    x, weight = random((20, 30), half), random((40, 30), half, seed=1)
    packed = fastdl.pack_linear_weight(weight)
    assert packed.packed is None
    assert_same_bits(fastdl.linear(x, packed), fastdl.linear(x, weight))


def test_errors():
    weight = random((5, 4), np.float64)
    packed = fastdl.pack_linear_weight(weight)
    with pytest.raises(TypeError, match=r"^\[linear\] x is float32, weight is float64"):
        fastdl.linear(random((3, 4), np.float32), packed)
    with pytest.raises(ValueError, match=r"^\[linear\] x has 3 input features, weight has 4"):
        fastdl.linear(random((3, 3), np.float64), packed)
    with pytest.raises(ValueError, match=r"^\[pack_linear_weight\] weight must have shape"):
        fastdl.pack_linear_weight(weight[0])
    with pytest.raises(TypeError, match=r"^\[pack_linear_weight\] weight must be"):
        fastdl.pack_linear_weight(weight.tolist())


@pytest.mark.parametrize("out", [513, 530], ids=str)
def test_gradient_of_a_large_weight(cpu_isa, dtype, out):
    """dy read down its columns, which lie too far apart: its strips are packed once for all x."""
    x, weight, _, _ = make_inputs((90, 270), (out, 270), dtype)
    dy = random((90, out), dtype, seed=4)
    for grad, expected, terms in zip(
        fastdl.linear_backward(dy, x, weight),
        reference.linear_backward(dy, x, weight),
        (out, 90, 90),
        strict=True,
    ):
        assert_close(grad, expected, scale=4 * np.sqrt(terms))
