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
    broadcast_of,
    layouts,
    random,
)

WINDOWS = "windows, lanes along a window's width"
SMALL = "small windows, lanes along the output's width"
ADAPTIVE = "adaptive windows, a row of them a lane"
WIDTHS = (1, 3, 4, 5, 8, 9, 16, 17, 33)
CASES = [
    *[((2, 2, 6, 2 * w), (3, w), ADAPTIVE if w < 16 else SMALL) for w in WIDTHS if w > 1],
    *[((2, 3, 5, w), 1, WINDOWS) for w in WIDTHS if w > 1],  # the whole plane
    *[((1, 2, 5, 2 * w + 1), (3, 2), ADAPTIVE) for w in WIDTHS],  # windows that overlap
    *[((1, planes, 7, 6), (2, 4), ADAPTIVE) for planes in WIDTHS],  # part of the lanes
    ((3, 5, 7), (3, 4), ADAPTIVE),  # unbatched
    ((1, 2, 7, 5), 5, ADAPTIVE),  # one axis kept
    ((1, 2, 6, 5), 3, ADAPTIVE),  # one axis tiled
    ((1, 2, 4, 6), (None, 2), ADAPTIVE),
    ((1, 2, 4, 6), [2, None], ADAPTIVE),
    ((1, 1, 2, 3), (5, 4), ADAPTIVE),  # larger than the input
    ((1, 1, 130, 170), 1, WINDOWS),  # many blocks of the sum
    ((1, 1, 131, 101), (3, 2), ADAPTIVE),  # several groups of rows
    ((1, 1, 600, 301), (7, 9), ADAPTIVE),  # planes cut into bands of rows
    ((1, 2, 3, 600), (2, 91), ADAPTIVE),  # rows cut into bands of columns
    ((1, 1, 2, 3), (4, 1501), ADAPTIVE),  # one column over more windows than a band has
    ((2, 3, 13, 13), 6, ADAPTIVE),  # windows of 3 every 2
    ((0, 2, 4, 4), 2, None),
    ((0, 4, 4), 2, None),
]


@pytest.mark.parametrize(("shape", "size", "kernel"), CASES, ids=str)
def test_forward_and_backward(isa, dtype, shape, size, kernel):
    x = random(shape, dtype)
    y = fastdl.adaptive_avg_pool2d(x, size)
    assert kernel in (fastdl._core.last_trace()["kernel"], None)
    assert y.dtype == dtype
    # the terms of a sum may cancel: the error scales with them, not with what is left
    scale = np.max(reference.adaptive_avg_pool2d_forward(abs(x), size), initial=0)
    assert_close(y, reference.adaptive_avg_pool2d_forward(x, size), scale=scale)
    dy = random(y.shape, dtype, seed=1)
    dx = fastdl.adaptive_avg_pool2d_backward(dy, shape)
    assert kernel in (fastdl._core.last_trace()["kernel"], None)
    assert_close(dx, reference.adaptive_avg_pool2d_backward(dy, shape))


# windows of more than 64 columns
@pytest.mark.parametrize("shape", [(1, 1, 131, 171), (2, 3, 5, 301)], ids=str)
def test_wide_windows(isa, dtype, shape):
    x = random(shape, dtype)
    y = fastdl.adaptive_avg_pool2d(x, (3, 2))
    assert fastdl._core.last_trace()["kernel"] == WINDOWS
    scale = np.max(reference.adaptive_avg_pool2d_forward(abs(x), (3, 2)))
    assert_close(y, reference.adaptive_avg_pool2d_forward(x, (3, 2)), scale=scale)
    dx = fastdl.adaptive_avg_pool2d_backward(y, shape)
    assert_close(dx, reference.adaptive_avg_pool2d_backward(y, shape))


@pytest.mark.parametrize("size", [1, (4, 5), (7, 13), (3, None)], ids=str)
def test_against_torch(torch, dtype, size):
    x = random((2, 3, 12, 35), dtype)
    xt = torch.tensor(x, requires_grad=True)
    yt = torch.nn.functional.adaptive_avg_pool2d(xt, size)
    dy = random(yt.shape, dtype, seed=1)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.adaptive_avg_pool2d, x, size)
    assert_close(y, yt.detach().numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy(), factor=2)  # both have errors


@pytest.mark.parametrize("size", [(2, 29), (4, 3), (3, 5)], ids=str)
def test_special_values(isa, dtype, size):
    # NaN and inf stay in the windows they lie in
    row = np.array([1, np.inf, 1, 1, 1, -np.inf, np.inf, 2, 3, 4, np.nan, 1e4, 1e-45, -0.0], dtype)
    x = np.tile(np.append(row, np.arange(15)), (1, 4, 3)).astype(dtype)
    y = fastdl.adaptive_avg_pool2d(x, size)
    assert_close(y, reference.adaptive_avg_pool2d_forward(x, size))
    dy = np.resize(x, y.shape)
    dx = fastdl.adaptive_avg_pool2d_backward(dy, x.shape)
    with np.errstate(invalid="ignore"):
        assert_close(dx, reference.adaptive_avg_pool2d_backward(dy, x.shape))


def test_any_layout(dtype):
    x = random((2, 3, 8, 9), dtype)
    f = fastdl.adaptive_avg_pool2d
    for array in [*layouts(x).values(), broadcast_of(x)]:
        assert_same_bits(f(array, 3), f(np.ascontiguousarray(array, dtype), 3))
    dx = fastdl.adaptive_avg_pool2d_backward(x, (2, 3, 20, 20))
    for array in layouts(x).values():
        assert_same_bits(fastdl.adaptive_avg_pool2d_backward(array, (2, 3, 20, 20)), dx)


# several planes a block, planes cut into bands of rows
@pytest.mark.parametrize("shape", [(40, 3, 50, 60), (1, 2, 700, 301)], ids=str)
@pytest.mark.parametrize("size", [1, (7, 9), (10, 43)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape, size):
    x = random(shape, dtype)
    dy = random(fastdl.adaptive_avg_pool2d(x, size).shape, dtype, seed=1)

    def run():
        y, pullback = fastdl.vjp(fastdl.adaptive_avg_pool2d, x, size)
        return (y, *pullback(dy))

    assert_same_bits_for_any_threads(run)


@pytest.mark.parametrize("size", [1, (6, 7), (10, 18), (5, 9)], ids=str)
def test_out(isa, dtype, size):
    x = random((2, 3, 20, 36), dtype)
    expected = fastdl.adaptive_avg_pool2d(x, size)
    guarded = Guarded(expected.shape, dtype)
    assert fastdl.adaptive_avg_pool2d(x, size, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, expected)


def test_empty_output():
    x = random((2, 3, 5, 7))
    assert fastdl.adaptive_avg_pool2d(x, 0).shape == (2, 3, 0, 0)
    assert fastdl.adaptive_avg_pool2d(x, (0, 3)).shape == (2, 3, 0, 3)
    assert fastdl.adaptive_avg_pool2d(x[:, :0], 2).shape == (2, 0, 2, 2)
    for shape in [(2, 3, 0, 0), (2, 3, 0, 3), (2, 0, 2, 2)]:
        with pytest.raises(ValueError, match="may be empty in the batch dimension only"):
            fastdl.adaptive_avg_pool2d_backward(np.zeros(shape), (2, shape[1], 5, 7))


def test_errors():
    op, backward = fastdl.adaptive_avg_pool2d, fastdl.adaptive_avg_pool2d_backward
    x = random((2, 3, 5, 7))
    assert_rejects_bad_arrays(lambda bad: op(bad, 2), x)
    assert_rejects_bad_arrays(lambda bad: backward(bad, (2, 3, 10, 14)), x)
    for shape, size, message in [
        ((5, 7), 2, r"x must be \(N, C, H, W\)"),
        ((1, 1, 1, 5, 7), 2, r"x must be \(N, C, H, W\)"),
        ((2, 3, 0, 7), 2, "x may be empty in the batch dimension only"),
        ((2, 3, 5, 7), -1, r"output_size must be at least 0 and below 2\*\*31, got \(-1, -1\)"),
        ((2, 3, 5, 7), (2,), "output_size must be an int or a pair of ints or None, got 1 values"),
        ((0, 3, 5, 7), 2**62, "output_size must be at least 0"),
        ((0, 3, 5, 7), 2**31 - 1, "overflows 64 bits"),
        ((2, 3, 5, 7), 2**64, "output_size does not fit 64 bits"),
    ]:
        with pytest.raises(ValueError, match=rf"\[adaptive_avg_pool2d\] .*{message}"):
            op(np.zeros(shape), size)
    for size in (None, 2.0, True, "2", (2, 2.0)):
        with pytest.raises(TypeError, match="output_size must be an int or a pair of ints or None"):
            op(x, size)
    with pytest.raises(ValueError, match=r"\[adaptive_avg_pool2d\] out "):
        op(x, 2, out=np.zeros((2, 3, 2, 3)))
    for size in [(2, 4, 9, 9), (2, 3, 9), (3, 9, 9)]:
        with pytest.raises(ValueError, match="cannot be pooled from input_size"):
            backward(x, size)
    for size in [(2, 3, 0, 7), (2, 3, -1, 7), (5, 7)]:
        with pytest.raises(ValueError, match="input_size m"):
            backward(x, size)
