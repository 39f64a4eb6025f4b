import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    LENGTHS,
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
)

SHAPES = [
    *[((3, n), (n,)) for n in LENGTHS],
    ((3, 4096), (4096,)),  # exactly one chunk of the widest vectors
    ((2, 9001), (9001,)),  # several chunks, the last one short
    ((2, 3, 4, 5), (4, 5)),
    ((4, 5), (4, 5)),  # mean and rstd are 0-d
    ((0, 5), (5,)),  # no rows: zero gradients
    ((3, 0), (0,)),  # nothing to average
    ((150, 6), (6,)),  # rows summed in several blocks
    ((67, 1000), (1000,)),  # the last block has a whole group of rows and a row more
]


def inputs(shape, normalized_shape, dtype):
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)
    weight, bias = random((2, *normalized_shape), dtype, seed=2)
    return x, dy, weight, bias


def assert_close_to_reference(x, dy, normalized_shape, weight, bias, **options):
    y, mean, rstd = fastdl.layer_norm_forward(x, normalized_shape, weight, bias, **options)
    assert y.dtype == mean.dtype == rstd.dtype == x.dtype
    expected = reference.layer_norm_forward(x, normalized_shape, weight, bias, **options)
    for actual, ref in zip((y, mean, rstd), expected, strict=True):
        assert_close(actual, ref, scale=max(1.0, np.max(np.abs(ref), initial=0.0)))
    grads = fastdl.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)
    expected = reference.layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)
    for actual, ref in zip(grads, expected, strict=True):
        # sums of n random terms cancel to about sqrt(n)
        assert_close(actual, ref, scale=max(3.0, np.max(np.abs(ref), initial=0.0)))


@pytest.mark.parametrize(("shape", "normalized_shape"), SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, shape, normalized_shape):
    x, dy, weight, bias = inputs(shape, normalized_shape, dtype)
    assert_close_to_reference(x, dy, normalized_shape, weight, bias)


def test_results_past_the_caches(isa):
    x = random((1401, 3001), np.float32)  # beyond 16 MB
    weight, bias = random((2, 3001), np.float32, seed=1)
    for parameters in ((), (weight, bias)):
        y = fastdl.layer_norm(x, 3001, *parameters)
        assert_same_bits(y[-2:], fastdl.layer_norm(x[-2:], 3001, *parameters))


@pytest.mark.parametrize("has_weight", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_optional_parameters(isa, dtype, has_weight, has_bias):
    x, dy, weight, bias = inputs((5, 37), (37,), dtype)
    weight, bias = weight if has_weight else None, bias if has_bias else None
    assert_close_to_reference(x, dy, 37, weight, bias, eps=0.1)


def test_large_mean(isa):
    # 1e4 + noise: the variance of the float32 numbers as they are, none of it lost
    for size in (100, 9001):
        x = (1e4 + random((4, size))).astype(np.float32)
        y, mean, rstd = fastdl.layer_norm_forward(x, size)
        for actual, ref in zip((y, mean, rstd), reference.layer_norm_forward(x, size), strict=True):
            assert_close(actual, ref)


@pytest.mark.parametrize("size", [16, 33, 5000])
@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e4, 1e30], ids=str)
def test_special_values(isa, dtype, size, at, value):
    # first in the vector body, last in the tail; 1e30 squared overflows float32
    x = random((3, size), dtype)
    x[1, at] = value
    y, mean, rstd = fastdl.layer_norm_forward(x, size)
    y64, mean64, rstd64 = reference.layer_norm_forward(x, size)
    for row in range(3):
        finite = x[row][np.isfinite(x[row])]
        assert_close(mean[row], mean64[row], scale=float(np.abs(finite).max()))  # it cancels
        assert_close(y[row], y64[row], factor=2)
        assert_close(rstd[row], rstd64[row])


def test_constant_rows_are_zero(isa, dtype):
    y, mean, _ = fastdl.layer_norm_forward(np.full((2, 50), 0.1, dtype), 50)
    assert np.abs(y).max() < 1e-5  # the mean is 0.1 but for its rounding
    assert_close(mean, np.full(2, dtype(0.1), np.float64))


def test_against_torch(torch, dtype):
    x, dy, weight, bias = inputs((4, 5, 19), (5, 19), dtype)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    yt = torch.nn.functional.layer_norm(tensors[0], (5, 19), *tensors[1:], eps=1e-3)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.layer_norm, x, (5, 19), weight, bias, eps=1e-3)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    for actual, tensor in zip(pullback(dy), tensors, strict=True):
        assert_close(actual, tensor.grad.numpy(), factor=2)


def test_output_mask(isa):
    x, dy, weight, _ = inputs((70, 19), (19,), np.float32)
    _, mean, rstd = fastdl.layer_norm_forward(x, 19)
    full = fastdl.layer_norm_backward(dy, x, 19, mean, rstd, weight)
    for mask in np.ndindex(2, 2, 2):
        mask = tuple(map(bool, mask))
        got = fastdl.layer_norm_backward(dy, x, 19, mean, rstd, weight, mask)
        assert_same_bits(got, [g if m else None for g, m in zip(full, mask, strict=True)])


def test_any_layout(dtype):
    x, dy, weight, bias = inputs((5, 6, 7), (6, 7), dtype)
    y, mean, rstd = fastdl.layer_norm_forward(x, (6, 7), weight, bias)
    for array in layouts(x).values():
        assert_same_bits(fastdl.layer_norm(array, (6, 7), weight, bias), y)
    for array in [*layouts(weight).values()]:
        assert_same_bits(fastdl.layer_norm(x, (6, 7), array, bias), y)
    expected = fastdl.layer_norm_backward(dy, x, (6, 7), mean, rstd, weight)
    for array in layouts(dy).values():
        got = fastdl.layer_norm_backward(array, x, (6, 7), mean, rstd, weight)
        assert_same_bits(got, expected)
    repeated = broadcast_of(x)
    assert_same_bits(fastdl.layer_norm(repeated, 7), fastdl.layer_norm(repeated.copy(), 7))


@pytest.mark.parametrize("shape", [(3000, 100), (50, 5003)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape):
    x, dy, weight, bias = inputs(shape, shape[1:], dtype)

    def run():
        y, mean, rstd = fastdl.layer_norm_forward(x, shape[1], weight, bias)
        return y, mean, rstd, *fastdl.layer_norm_backward(dy, x, shape[1], mean, rstd, weight)

    assert_same_bits_for_any_threads(run)


def test_out(isa, dtype):
    x, _, weight, bias = inputs((5, 19), (19,), dtype)
    guarded = Guarded(x.shape, dtype)
    assert fastdl.layer_norm(x, 19, weight, bias, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, fastdl.layer_norm(x, 19, weight, bias))


def test_normalized_shape():
    x = random((2, 3, 4))
    assert_same_bits(fastdl.layer_norm(x, 4), fastdl.layer_norm(x, [np.int64(4)]))
    for shape in [(3,), (2, 4), (1, 2, 3, 4), (-4,), (12,), (2**62,)]:
        with pytest.raises(ValueError, match=r"\[layer_norm\] x must have a shape that ends in"):
            fastdl.layer_norm(x, shape)
    with pytest.raises(ValueError, match="at least one dimension"):
        fastdl.layer_norm(x, ())
    with pytest.raises(TypeError):
        fastdl.layer_norm(x, 4.0)


def test_errors():
    x, dy, weight, bias = inputs((4, 5), (5,), np.float64)
    _, mean, rstd = fastdl.layer_norm_forward(x, 5)
    backward = fastdl.layer_norm_backward
    assert_rejects_bad_arrays(lambda bad: fastdl.layer_norm(bad, 5), x)
    assert_rejects_bad_arrays(lambda bad: backward(bad, x, 5, mean, rstd), x)
    with pytest.raises(TypeError, match="weight is float32, x is float64"):
        fastdl.layer_norm(x, 5, weight.astype(np.float32))
    with pytest.raises(ValueError, match=r"weight must have shape \(5,\), got \(1,\)"):
        fastdl.layer_norm(x, 5, weight[:1])
    with pytest.raises(ValueError, match="bias must have shape"):
        fastdl.layer_norm(x, 5, weight, bias[:1])
    with pytest.raises(ValueError, match="out shares memory with x"):
        fastdl.layer_norm(x, 5, out=x)
    with pytest.raises(ValueError, match="dy must have shape"):
        backward(dy[1:], x, 5, mean, rstd)
    with pytest.raises(ValueError, match=r"mean must have shape \(4,\)"):
        backward(dy, x, 5, mean[:, None], rstd)
    with pytest.raises(ValueError, match="rstd must have shape"):
        backward(dy, x, 5, mean, rstd[1:])
    with pytest.raises(TypeError, match="rstd is float32"):
        backward(dy, x, 5, mean, rstd.astype(np.float32))
