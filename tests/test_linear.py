import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
    random,
)

SHAPES = [
    ((3, 4), (5, 4)),
    ((4,), (5, 4)),
    ((2, 3, 4), (5, 4)),
    ((3, 4), (1, 4)),
    ((3, 4), (4,)),  # y without a last dimension
    ((2, 3, 4), (4,)),
    ((4,), (4,)),
    ((0, 4), (5, 4)),  # dweight = dbias = 0
    ((3, 0), (5, 0)),  # y = bias
    ((3, 4), (0, 4)),
    ((17, 197), (50, 197)),
    *[((n, 257), (11, 257)) for n in range(2, 10)],  # few rows, or few outputs
    *[((11, 257), (n, 257)) for n in range(2, 10)],
    ((3, 2000), (700, 2000)),
    ((1, 197), (50, 197)),
    ((64, 33), (13, 33)),
    ((65, 33), (13, 33)),  # one row more than what is summed at once
    ((3, 70, 40), (300, 40)),
    ((5000, 70), (60, 70)),  # sums over rows in several parts
    ((2, 70001), (3, 70001)),
]
IDS = {"ids": lambda shape: "x".join(map(str, shape))}


def make_inputs(x_shape, weight_shape, dtype):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    bias = random(weight_shape[:-1], dtype, seed=2)
    dy = random(reference.linear_forward(x, weight).shape, dtype, seed=3)
    return x, weight, bias, dy


def error_scale(terms):
    """Of a sum of products of numbers up to 4, also where the sum itself cancels."""
    return 4 * np.sqrt(max(terms, 1))


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES, **IDS)
def test_forward_and_backward(isa, dtype, x_shape, weight_shape):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape, dtype)
    rows, out = dy.size // max(bias.size, 1), bias.size
    for b in (bias, None):
        y = fastdl.linear(x, weight, b)
        assert y.dtype == dtype
        expected = reference.linear_forward(x, weight, b)
        assert_close(y, expected, scale=error_scale(x_shape[-1]))
    for grad, expected, terms in zip(
        fastdl.linear_backward(dy, x, weight),
        reference.linear_backward(dy, x, weight),
        (out, rows, rows),
        strict=True,
    ):
        assert grad.dtype == dtype
        assert_close(grad, expected, scale=error_scale(terms))


@pytest.mark.parametrize("bias_shape", [None, (), (1,), (5,)], ids=str)
@pytest.mark.parametrize("x_shape", [(4,), (3, 4), (2, 3, 4)], **IDS)
def test_against_torch(torch, dtype, x_shape, bias_shape):
    arrays = [random(x_shape, dtype), random((5, 4), dtype, seed=1)]
    if bias_shape is not None:
        arrays.append(random(bias_shape, dtype, seed=2))
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.nn.functional.linear(*tensors)
    y, pullback = fastdl.vjp(fastdl.linear, *arrays)
    assert_close(y, expected.detach().numpy(), factor=2)  # both have errors
    dy = random(y.shape, dtype, seed=3)
    expected.backward(torch.tensor(dy))
    for grad, tensor in zip(pullback(dy), tensors, strict=True):
        assert_close(grad, tensor.grad.numpy(), scale=error_scale(6))


def test_one_bias_for_all_outputs(isa, dtype):
    x, weight, _, _ = make_inputs((3, 4), (5, 4), dtype)
    y = fastdl.linear(x, weight, np.array(7, dtype))
    assert_same_bits(y, fastdl.linear(x, weight, np.full(5, 7, dtype)))


def test_special_values(isa, dtype):
    x, weight, bias, _ = make_inputs((9, 20), (50, 20), dtype)
    x[1, 3], weight[2, 3], weight[49, 0], bias[7] = np.inf, 0, np.nan, -np.inf
    x[8] = 1e4
    with np.errstate(invalid="ignore"):
        expected = reference.linear_forward(x, weight, bias)
    assert np.isnan(expected[1, 2])
    assert_close(fastdl.linear(x, weight, bias), expected)
    dbias = fastdl.linear_backward(expected.astype(dtype), x, weight, (False, False, True))[2]
    with np.errstate(invalid="ignore"):
        assert_close(dbias, expected.astype(dtype).sum(0, dtype=np.float64))


def test_any_layout(dtype):
    x, weight, bias, _ = make_inputs((5, 6, 7), (9, 7), dtype)
    y = fastdl.linear(x, weight, bias)
    for array in layouts(x).values():
        assert_same_bits(fastdl.linear(array, weight, bias), y)
    for array in layouts(weight).values():
        assert_same_bits(fastdl.linear(x, array, bias), y)
    for array in layouts(bias).values():
        assert_same_bits(fastdl.linear(x, weight, array), y)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape"), [((20000, 50), (60, 50)), ((1, 1000), (700, 1000))], **IDS
)
def test_same_bits_for_any_threads(isa, dtype, x_shape, weight_shape):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape, dtype)
    assert_same_bits_for_any_threads(
        lambda: (fastdl.linear(x, weight, bias), *fastdl.linear_backward(dy, x, weight))
    )


def test_out(isa, dtype):
    for shapes in SHAPES[:-2]:
        x, weight, bias, _ = make_inputs(*shapes, dtype)
        y = fastdl.linear(x, weight, bias)
        guarded = Guarded(y.shape, dtype)
        assert fastdl.linear(x, weight, bias, out=guarded.array) is guarded.array
        guarded.check()
        assert_same_bits(guarded.array, y)


@pytest.mark.parametrize("i", range(3))
def test_output_mask(i):
    x, weight, _, dy = make_inputs((3, 4), (5, 4), np.float64)
    expected = [None] * 3
    expected[i] = fastdl.linear_backward(dy, x, weight)[i]
    mask = tuple(j == i for j in range(3))
    assert_same_bits(fastdl.linear_backward(dy, x, weight, mask), tuple(expected))


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "kernel"),
    [
        ((9, 300), (10, 300), "gemm"),
        ((8, 256), (10, 256), "dots"),
        ((10, 256), (8, 256), "dots"),
        ((8, 255), (10, 255), "gemm"),  # too few terms
        ((2, 64), (10, 64), "dots"),
        ((1, 4), (5, 4), "dots"),
    ],
    **IDS,
)
def test_kernel(x_shape, weight_shape, kernel):
    y = fastdl.linear(random(x_shape), random(weight_shape))
    trace = fastdl._core.last_trace()
    assert trace["flops"] == 2 * y.size * x_shape[-1]
    assert trace["kernel"].startswith(kernel)


def test_errors():
    x, weight, bias, dy = make_inputs((3, 4), (5, 4), np.float64)
    assert_rejects_bad_arrays(lambda bad: fastdl.linear(bad, weight, bias), x)
    assert_rejects_bad_arrays(lambda bad: fastdl.linear(x, bad, bias), weight)
    assert_rejects_bad_arrays(lambda bad: fastdl.linear_backward(bad, x, weight), dy)
    for args, message in [
        ((np.float64(1), weight), "x must have at least 1 dimension"),
        ((x, np.float64(1)), "weight must have shape"),
        ((x, random((2, 5, 4))), "weight must have shape"),
        ((x, random((5, 3))), "x has 4 input features, weight has 3"),
        ((x, weight, random(4)), r"bias must have shape \(5,\), got \(4,\)"),
        ((x, weight, random((3, 5))), "bias must have shape"),
        ((x, weight[0], random(1)), r"bias must have shape \(\), got \(1,\)"),
        ((x, weight[0], random(3)), "bias must have shape"),
    ]:
        with pytest.raises(ValueError, match=rf"^\[linear\] {message}"):
            fastdl.linear(*args)
    with pytest.raises(TypeError, match="bias is float32, weight is float64"):
        fastdl.linear(x, weight, bias.astype(np.float32))
    with pytest.raises(TypeError, match="x is float64, weight is float32"):
        fastdl.linear(x, weight.astype(np.float32))
    with pytest.raises(ValueError, match=r"dy must have shape \(3, 5\)"):
        fastdl.linear_backward(x, x, weight)
    with pytest.raises(TypeError, match="dy is float32, x is float64"):
        fastdl.linear_backward(dy.astype(np.float32), x, weight)
    with pytest.raises(ValueError, match="out shares memory with x"):
        fastdl.linear(x, random((4, 4)), out=x)
