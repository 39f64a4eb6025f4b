import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
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
    *[((1, planes, 7, 6), (2, 1), WINDOWS) for planes in WIDTHS],
    ((3, 5, 7), (3, 4), ADAPTIVE),  # unbatched
    ((1, 2, 7, 5), 5, ADAPTIVE),  # one axis kept
    ((1, 2, 6, 5), 3, ADAPTIVE),  # one axis tiled
    ((1, 2, 4, 6), (None, 2), ADAPTIVE),
    ((1, 1, 2, 3), (5, 4), ADAPTIVE),  # larger than the input
    ((2, 3, 13, 13), 6, ADAPTIVE),  # windows of 3 every 2
    ((1, 2, 3, 600), (2, 91), ADAPTIVE),  # rows cut into bands of columns
    ((1, 1, 131, 171), (3, 2), WINDOWS),  # wide windows
    ((1, 3, 300, 301), 1, WINDOWS),  # fewer windows a block than lanes
    ((0, 2, 4, 4), 2, None),
    ((0, 4, 4), 2, None),
]


def pool(x, size):
    return fastdl.adaptive_max_pool2d(x, size, return_indices=True)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("shape", "size", "kernel"), CASES, ids=str)
def test_forward_and_backward(isa, dtype, shape, size, kernel, ties):
    x = random(shape, dtype)
    if ties:
        x = np.round(x)  # signed zeros among them
    y, indices = pool(x, size)
    with_indices = ADAPTIVE if kernel == SMALL else kernel  # SMALL keeps codes
    assert with_indices in (fastdl._core.last_trace()["kernel"], None)
    y64, indices64 = reference.adaptive_max_pool2d_forward(x, size)
    assert_same_bits(y, y64.astype(dtype))
    assert_same_bits(indices, indices64)
    assert_same_bits(fastdl.adaptive_max_pool2d(x, size), y)
    assert kernel in (fastdl._core.last_trace()["kernel"], None)
    dy = random(y.shape, dtype, seed=1)
    dx = fastdl.adaptive_max_pool2d_backward(dy, indices, shape)
    assert_close(dx, reference.adaptive_max_pool2d_backward(dy, indices, shape))
    y, pullback = fastdl.vjp(fastdl.adaptive_max_pool2d, x, size)  # by codes of few taps
    assert_same_bits(y, y64.astype(dtype))
    assert_close(pullback(dy)[0], dx)


@pytest.mark.parametrize("size", [1, (4, 5), (7, 13), (3, None)], ids=str)
def test_against_torch(torch, dtype, size):
    x = np.round(random((2, 3, 12, 35), dtype), 1)  # with ties
    xt = torch.tensor(x, requires_grad=True)
    yt, indices_t = torch.nn.functional.adaptive_max_pool2d(xt, size, return_indices=True)
    dy = random(yt.shape, dtype, seed=1)
    yt.backward(torch.tensor(dy))
    result, pullback = fastdl.vjp(fastdl.adaptive_max_pool2d, x, size, return_indices=True)
    assert_same_bits(result, (yt.detach().numpy(), indices_t.numpy()))
    assert_close(pullback(dy)[0], xt.grad.numpy())
    y, pullback = fastdl.vjp(fastdl.adaptive_max_pool2d, x, size)
    assert_same_bits(y, yt.detach().numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy())


@pytest.mark.parametrize(
    "row",
    [
        [1.0, np.nan, 5.0, 2.0, 7.0],
        [np.nan, 5.0, np.nan, np.nan, 7.0],
        [np.inf, np.nan, np.inf, 2.0, 7.0],
        [-np.inf] * 5,
        [-np.inf, -1.0, -np.inf, -2.0, -1.0],  # below the 0 of a partial load
        [-0.0, 0.0, -0.0, 0.0, -0.0],
        [1e-45, -1e-45, 1e4, -1e4, 0.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, (2, 85), (4, 3), (3, 17)], ids=str)
def test_special_values(torch, isa, dtype, size, row):
    # 85 columns: body and tail. Every second row turns round, so that rows meet rows as well.
    x = np.tile(np.array(row, dtype), (1, 6, 17))
    x[:, 1::2] = x[:, 1::2, ::-1]
    expected = torch.nn.functional.adaptive_max_pool2d(torch.tensor(x), size, return_indices=True)
    y, indices = pool(x, size)
    assert_same_bits((y, indices), tuple(e.numpy() for e in expected))
    assert_same_bits(fastdl.adaptive_max_pool2d(x, size), y)


def test_any_layout(dtype):
    x = random((2, 3, 8, 9), dtype)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        assert_same_bits(pool(array, 3), pool(np.ascontiguousarray(array, dtype), 3))


# several planes a block, planes cut into bands of rows
@pytest.mark.parametrize("shape", [(40, 3, 50, 60), (1, 2, 700, 301)], ids=str)
@pytest.mark.parametrize("size", [1, (7, 9), (10, 43)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape, size):
    x = random(shape, dtype)
    dy = random(fastdl.adaptive_max_pool2d(x, size).shape, dtype, seed=1)

    def run():
        y, pullback = fastdl.vjp(fastdl.adaptive_max_pool2d, x, size)
        return (y, fastdl.adaptive_max_pool2d(x, size), *pullback(dy))

    assert_same_bits_for_any_threads(run)


def test_empty_output():
    x = random((2, 3, 5, 7))
    y, indices = pool(x, (0, 3))
    assert y.shape == indices.shape == (2, 3, 0, 3)
    with pytest.raises(ValueError, match="dy may be empty in the batch dimension only"):
        fastdl.adaptive_max_pool2d_backward(y, indices, x.shape)


def test_errors():
    op, backward = fastdl.adaptive_max_pool2d, fastdl.adaptive_max_pool2d_backward
    x = random((2, 3, 4, 6))
    y, indices = pool(x, 2)
    assert_rejects_bad_arrays(lambda bad: op(bad, 2), x)
    assert_rejects_bad_arrays(lambda bad: backward(bad, indices, x.shape), y)
    for shape, size, message in [
        ((5, 7), 2, r"x must be \(N, C, H, W\)"),
        ((2, 0, 5, 7), 2, "x may be empty in the batch dimension only"),
        ((2, 3, 5, 7), -1, "output_size must be at least 0"),
        ((2, 3, 5, 7), (2, 2, 2), "output_size must be .*, got 3 values"),
    ]:
        with pytest.raises(ValueError, match=rf"\[adaptive_max_pool2d\] {message}"):
            op(np.zeros(shape), size)
    with pytest.raises(TypeError, match="output_size must be an int or a pair of ints or None"):
        op(x, None)
    with pytest.raises(ValueError, match="cannot be pooled from input_size"):
        backward(y, indices, (2, 4, 4, 6))
    for value in (-1, 24):
        bad = indices.copy()
        bad[1, 0, 0, 1] = value
        with pytest.raises(
            ValueError, match=rf"indices\[13\] of the flat array is {value}, out of"
        ):
            backward(y, bad, x.shape)


def test_more_rows_than_float32_counts(isa):
    x = np.zeros((1, 2**24 + 2, 1), np.float32)
    x[0, [2**24 - 1, 2**24 + 1]] = 1
    y, indices = pool(x, (3, 1))
    assert_same_bits(indices[0, :, 0], np.array([0, 5592406, 2**24 - 1]))
    assert_same_bits(y[0, :, 0], np.array([0, 0, 1], np.float32))
