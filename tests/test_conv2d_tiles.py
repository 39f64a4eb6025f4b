"""conv2d on AMX's tiles: shapes large enough for them, all types they multiply."""

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_kernel,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    random,
    running_isa,
    widened,
)

KERNEL = "implicit GEMM, products of bfloat16 on tiles"
HALVES = [ml_dtypes.bfloat16, np.float16]

POINTWISE = [
    ((2, 150, 17, 19), (200, 150, 1, 1)),  # columns across images, odd rows
    ((16, 300, 7, 7), (240, 300, 1, 1)),  # small planes, several parts of the terms
    ((1, 200, 40, 41), (600, 200, 1, 1)),  # more rows than a block
]
STRIDED = [
    ((3, 150, 33, 36), (200, 150, 1, 1), 2),  # the last column and row end with a window, or not
    ((2, 200, 23, 40), (240, 200, 1, 1), (3, 1)),
    ((2, 200, 24, 71), (240, 200, 1, 1), (1, 3)),
]
WINDOWS = [
    ((2, 3, 57, 61), (64, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 24, 15, 17), (50, 24, 3, 3), {"stride": 2, "padding": 1}),
    ((3, 30, 9, 70), (50, 30, 3, 3), {"padding": 1}),
    ((2, 70, 7, 7), (40, 70, 3, 3), {"padding": "same"}),
    ((2, 24, 9, 23), (50, 24, 5, 3), {"padding": (2, 0), "dilation": (1, 3)}),
    ((2, 24, 11, 3), (50, 24, 2, 2), {"padding": 1, "stride": (3, 1)}),
    ((2, 40, 15, 17), (50, 40, 1, 1), {"stride": 2}),
    ((2, 40, 1, 1), (50, 40, 1, 1), {"padding": 2}),
    ((3, 8, 5), (16, 3, 4, 5), {"padding": 1, "stride": 2}),
]


@pytest.fixture(autouse=True)
def tiles():
    if "amx" not in fastdl.supported_isas():
        pytest.skip("this CPU has no AMX")
    with running_isa("amx"):
        yield


def inputs(x_shape, weight_shape, dtype, **options):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    bias = random(weight_shape[:1], dtype, seed=2)
    y = reference.conv2d_forward(*widened([x, weight, bias]), **options)
    return x, weight, bias, random(y.shape, dtype, seed=3), y


def assert_right(actual, exact, terms):
    """As good as sums in float32, rounded once to the type of the result."""
    if actual.dtype == np.float32:
        return assert_close(actual, exact)
    eps = float(ml_dtypes.finfo(actual.dtype).eps) / 2
    scale = max(np.abs(exact).max(initial=0), np.sqrt(terms))
    error = np.abs(widened(actual) - exact) - eps * np.abs(exact)
    assert error.max(initial=0) <= 16 * np.finfo(np.float32).eps * scale


@pytest.mark.parametrize("dtype", [np.float32, *HALVES], ids=str)
@pytest.mark.parametrize(("x_shape", "weight_shape"), POINTWISE, ids=str)
def test_pointwise(x_shape, weight_shape, dtype):
    x, weight, bias, dy, exact = inputs(x_shape, weight_shape, dtype)
    y = fastdl.conv2d(x, weight, bias)
    assert_kernel(KERNEL)
    assert_right(y, exact, weight.shape[1])
    dx, dweight, _ = fastdl.conv2d_backward(dy, x, weight, output_mask=(True, True, False))
    assert KERNEL in fastdl._core.last_trace()["kernel"]
    expected = reference.conv2d_backward(*widened([dy, x, weight]))
    assert_right(dx, expected[0], weight.shape[0])
    assert_right(dweight, expected[1], dy.size / dy.shape[1])


@pytest.mark.parametrize(("x_shape", "weight_shape", "stride"), STRIDED, ids=str)
def test_gradients_of_strided_pixels(x_shape, weight_shape, stride):
    x, weight, _, dy, _ = inputs(x_shape, weight_shape, np.float32, stride=stride)
    dx, dweight, dbias = fastdl.conv2d_backward(dy, x, weight, stride=stride)
    assert fastdl._core.last_trace()["kernel"].count("on tiles") == 2
    expected = reference.conv2d_backward(*widened([dy, x, weight]), stride=stride)
    assert_close(dx, expected[0])
    assert_close(dweight, expected[1])
    assert_close(dbias, expected[2])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), WINDOWS, ids=str)
def test_windows(x_shape, weight_shape, options, dtype):
    x, weight, bias, _, exact = inputs(x_shape, weight_shape, dtype, **options)
    guarded = Guarded(exact.shape, dtype)
    fastdl.conv2d(x, weight, bias, out=guarded.array, **options)
    guarded.check()
    taken = dtype != np.float16 or options.get("stride", 1) != 1
    assert (fastdl._core.last_trace()["kernel"] == KERNEL) == taken
    assert_right(guarded.array, exact, weight[0].size)


@pytest.mark.parametrize("dtype", [np.float32, *HALVES], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
def test_epilogue(activation, dtype):
    x, weight, bias, residual, _ = inputs(*POINTWISE[0], dtype)
    y = fastdl.conv2d(x, weight, bias, activation=activation, residual=residual)
    assert_kernel(KERNEL)
    wide = widened([x, weight, bias, residual])
    exact = reference.conv2d_forward(*wide[:3], activation=activation, residual=wide[3])
    assert_right(y, exact, weight.shape[1])


@pytest.mark.parametrize("dtype", [np.float32, *HALVES], ids=str)
@pytest.mark.parametrize("where", ["x", "weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-40, 1e37], ids=str)
def test_special_values(value, where, dtype):
    for shapes, options in [(POINTWISE[1], {}), (WINDOWS[1][:2], WINDOWS[1][2])]:
        x, weight, _, _, _ = inputs(*shapes, dtype, **options)
        array = {"x": x, "weight": weight}[where]
        with np.errstate(over="ignore"):
            array[0, 0, 0, 0] = array[1, 3, -1, -1] = array[-1, -1, -1, -1] = value
        y = fastdl.conv2d(x, weight, **options)
        with np.errstate(all="ignore"):
            exact = reference.conv2d_forward(*widened([x, weight]), **options)
        finite = np.isfinite(exact) & (np.abs(exact) < 1e30)
        np.testing.assert_array_equal(np.isfinite(widened(y)), np.isfinite(exact.astype(dtype)))
        assert_right(np.where(finite, y, 0).astype(dtype), np.where(finite, exact, 0), 300)


@pytest.mark.parametrize("dtype", [np.float32, *HALVES], ids=str)
def test_same_bits_for_any_threads(dtype):
    x, weight, bias, dy, _ = inputs(*POINTWISE[2], dtype)

    def run():
        gradients = fastdl.conv2d_backward(dy, x, weight)
        return widened([fastdl.conv2d(x, weight, bias), *gradients], np.float32)

    assert_same_bits_for_any_threads(run)
    assert KERNEL in fastdl._core.last_trace()["kernel"]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_channels_last(torch, dtype):
    shapes, options = WINDOWS[2][:2], WINDOWS[2][2]
    x, weight, bias, _, _ = inputs(*shapes, dtype, **options)
    name = {"bfloat16": torch.bfloat16, "float16": torch.float16}[np.dtype(dtype).name]
    xt, wt, bt = (torch.tensor(widened(a)).to(name) for a in (x, weight, bias))
    y = fastdl.conv2d(xt.contiguous(memory_format=torch.channels_last), wt, bt, **options)
    expected = fastdl.conv2d(x, weight, bias, **options)
    assert_same_bits(y.float().contiguous().numpy(), widened(expected, np.float32))


def test_errors():
    x, weight = random((2, 32, 5, 5), HALVES[0]), random((16, 32, 3, 3), HALVES[0])
    with pytest.raises(TypeError, match=r"^\[conv2d\] weight is bfloat16, x is float32"):
        fastdl.conv2d(widened(x, np.float32), weight)
    with pytest.raises(ValueError, match="stride must be positive"):
        fastdl.conv2d(x, weight, stride=(1, -1))
    assert fastdl.conv2d(x[:0], weight).shape == (0, 16, 3, 3)
