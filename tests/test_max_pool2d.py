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

# Output widths around the lanes (4, 8, 16) and twice them, each with a tail or without.
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 67)
ROWS, WINDOWS = "rows, lanes along the output's width", "windows, lanes along a window's width"
CASES = [
    *[((2, 2, 5, w), (3, 1, 1), {}, ROWS) for w in WIDTHS if w > 1],
    *[((2, 2, 5, 2 * w), (2,), {}, ROWS) for w in WIDTHS if w > 1],
    *[((1, 2, 6, 2 * w + 1), (3, 2, 1), {}, ROWS) for w in WIDTHS],
    *[((1, 1, 7, 3 * w + 2), (3, 3, 1), {}, ROWS) for w in WIDTHS],  # neither stride 1 nor 2
    ((3, 5, 40), ((3, 2), 1), {}, ROWS),  # unbatched; a row as it lies
    ((1, 2, 6, 40), (1, 2), {}, ROWS),  # one tap
    ((1, 2, 9, 50), ((5, 4), (2, 1), (2, 1)), {}, ROWS),
    ((1, 2, 9, 21), (3, 2), {}, ROWS),
    ((1, 1, 3, 5000), (3, 2, 1), {}, ROWS),  # parts of rows by codes
    ((1, 1, 3, 5000), (3, 1, 1), {}, ROWS),
    ((1, 2, 90, 91), (2, 2, 1), {}, ROWS),  # bands of a plane by codes
    ((1, 1, 20, 60), (19, 1, 9), {}, ROWS),  # more taps than a group of the reduction
    ((1, 1, 9, 40), (2, (3, 4)), {}, ROWS),  # gaps between the windows
    ((1, 1, 8, 37), (3, 2, 1), {"dilation": (2, 3)}, ROWS),
    ((1, 1, 12, 37), (2, 1, 1), {"dilation": 5}, ROWS),
    ((1, 2, 3, 4), (2, 1, 1), {"dilation": (1, 5)}, WINDOWS),  # columns of padding only
    ((1, 2, 4, 9), (2, 1, 1), {"dilation": (5, 1)}, ROWS),  # rows of padding only
    ((1, 1, 5, 35), (2,), {"ceil_mode": True}, ROWS),
    ((1, 1, 5, 34), (3, 2, 1), {"ceil_mode": True}, ROWS),
    ((1, 1, 5, 5), (2, 2, 1), {"ceil_mode": True}, ROWS),  # no window starts in the right padding
    ((1, 1, 5, 37), ((1, 3), (2, 5), (0, 1)), {"ceil_mode": True}, ROWS),
    ((1, 1, 7, 36), (2, 2, 1), {"dilation": 2, "ceil_mode": True}, ROWS),
    ((2, 3, 7, 7), (7,), {}, WINDOWS),
    ((1, 1, 5, 6), (9, 3, 4), {"ceil_mode": True}, WINDOWS),
    ((1, 1, 4, 300), (2, 99), {}, WINDOWS),  # too many columns modulo the stride
    ((0, 2, 4, 4), (2,), {}, None),
]


def pool(op, *args, **kwargs):
    result = op(*args, **kwargs, return_indices=True)
    return result, fastdl._core.last_trace()["kernel"]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("shape", "sizes", "options", "kernel"), CASES, ids=str)
def test_forward_and_backward(isa, dtype, shape, sizes, options, kernel, ties):
    x = random(shape, dtype)
    if ties:
        x = np.round(x)  # signed zeros among them
    (y, indices), used = pool(fastdl.max_pool2d, x, *sizes, **options)
    assert kernel in (used, None)
    y64, indices64 = reference.max_pool2d_forward(x, *sizes, **options)
    assert_same_bits(y, y64.astype(dtype))
    assert_same_bits(indices, indices64)
    assert_same_bits(fastdl.max_pool2d(x, *sizes, **options), y)
    dy = random(y.shape, dtype, seed=1)
    dx = fastdl.max_pool2d_backward(dy, indices, shape)
    assert_close(dx, reference.max_pool2d_backward(dy, indices, shape))
    y, pullback = fastdl.vjp(fastdl.max_pool2d, x, *sizes, **options)  # by codes of few taps
    assert_same_bits(y, y64.astype(dtype))
    assert_close(pullback(dy)[0], dx)


def test_large_offsets_stay_exact(isa):
    # 2**24 columns: float32 would no longer hold the offset of the second row
    x = np.zeros((1, 2, 2**24 + 2), np.float32)
    x[0, 1, -1] = 1
    (_, indices), used = pool(fastdl.max_pool2d, x, (2, 3), (1, 2**22))
    assert used == WINDOWS
    assert indices[0, 0, -1] == 3 * 2**22
    x[0, 1, 2**22] = 1
    assert pool(fastdl.max_pool2d, x, 2, (1, 2**22))[0][1][0, 0, 1] == 2**24 + 2 + 2**22


def test_window_far_larger_than_the_plane(isa):
    x = random((1, 1, 3, 4))
    y, indices = fastdl.max_pool2d(x, 2**31 - 1, 2**31 - 1, 2**30 - 1, 1, True, True)
    assert y.shape == (1, 1, 1, 1)
    assert y[0, 0, 0, 0] == x.max()
    assert indices[0, 0, 0, 0] == x.argmax()


@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 1, 1), ((2, 3), 1, 1, 2)], ids=str)
def test_against_torch(torch, dtype, sizes):
    x = np.round(random((2, 3, 13, 37), dtype), 1)  # with ties
    xt = torch.tensor(x, requires_grad=True)
    yt, indices_t = torch.nn.functional.max_pool2d(xt, *sizes, return_indices=True)
    dy = random(yt.shape, dtype, seed=1)
    yt.backward(torch.tensor(dy))
    (y, indices), pullback = fastdl.vjp(fastdl.max_pool2d, x, *sizes, return_indices=True)
    assert_same_bits(y, yt.detach().numpy())
    assert_same_bits(indices, indices_t.numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy())
    y, pullback = fastdl.vjp(fastdl.max_pool2d, x, *sizes)
    assert_same_bits(y, yt.detach().numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy())


@pytest.mark.parametrize(
    "row",
    [
        [1.0, np.nan, 5.0, 2.0, 7.0],
        [np.nan, 5.0, np.nan, np.nan, 7.0],
        [np.inf, np.nan, np.inf, 2.0, 7.0],
        [-np.inf] * 5,  # padding is -inf as well, but does not win
        [np.inf, np.inf, 1.0, -np.inf, np.inf],
        [-0.0, 0.0, -0.0, 0.0, -0.0],
        [1e-45, -1e-45, 1e4, -1e4, 0.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", [(3, 1, 1), (3, 2, 1), (3, 3, 1), (2, 1, 1)], ids=str)
def test_special_values(torch, isa, dtype, sizes, row):
    # 85 columns: body and tail. Every second row turns round, so that rows meet rows as well.
    x = np.tile(np.array(row, dtype), (1, 6, 17))
    x[:, 1::2] = x[:, 1::2, ::-1]
    expected = torch.nn.functional.max_pool2d(torch.tensor(x), *sizes, return_indices=True)
    y, indices = fastdl.max_pool2d(x, *sizes, return_indices=True)
    assert_same_bits((y, indices), tuple(e.numpy() for e in expected))
    assert_same_bits(fastdl.max_pool2d(x, *sizes), y)
    y, pullback = fastdl.vjp(fastdl.max_pool2d, x, *sizes)
    assert_same_bits(y, fastdl.max_pool2d(x, *sizes))
    dy = np.resize(np.array([1.0, -0.0, np.nan, np.inf, 0.0], dtype), y.shape)
    assert_same_bits(pullback(dy)[0], fastdl.max_pool2d_backward(dy, indices, x.shape))


def test_any_layout(dtype):
    x = random((2, 3, 8, 9), dtype)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        plain = np.ascontiguousarray(array, dtype)
        expected = fastdl.max_pool2d(plain, 3, 2, 1, return_indices=True)
        assert_same_bits(fastdl.max_pool2d(array, 3, 2, 1, return_indices=True), expected)
    y, indices = fastdl.max_pool2d(x, 3, 2, 1, return_indices=True)
    dx = fastdl.max_pool2d_backward(y, indices, x.shape)
    for dy, at in zip(layouts(y).values(), layouts(indices).values(), strict=True):
        assert_same_bits(fastdl.max_pool2d_backward(dy, at, x.shape), dx)
    assert_same_bits(fastdl.max_pool2d_backward(y, indices.astype(np.int32), x.shape), dx)


# several planes a block, planes cut into bands of rows
@pytest.mark.parametrize("shape", [(40, 3, 50, 60), (1, 2, 700, 301)], ids=str)
@pytest.mark.parametrize("sizes", [(3, 2, 1), (3, 1, 1), (200, 150)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape, sizes):
    x = random(shape, dtype)
    if sizes == (200, 150) and shape[0] > 1:
        sizes = (40, 20)
    dy = random(fastdl.max_pool2d(x, *sizes).shape, dtype, seed=1)

    def run():
        y, pullback = fastdl.vjp(fastdl.max_pool2d, x, *sizes)
        return (y, fastdl.max_pool2d(x, *sizes), *pullback(dy))

    assert_same_bits_for_any_threads(run)


@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 3, 1), (11, 1, 5), (20,)], ids=str)
def test_out(isa, dtype, sizes):
    x = random((2, 3, 20, 21), dtype)
    expected = fastdl.max_pool2d(x, *sizes)
    for indices in (False, True):
        guarded = Guarded(expected.shape, dtype)
        result = fastdl.max_pool2d(x, *sizes, return_indices=indices, out=guarded.array)
        assert (result[0] if indices else result) is guarded.array
        guarded.check()
        assert_same_bits(guarded.array, expected)


@pytest.mark.parametrize(
    ("shape", "args", "message"),
    [
        ((5, 7), (2,), r"x must be \(N, C, H, W\) or \(C, H, W\), got shape \(5, 7\)"),
        ((1, 1, 1, 5, 7), (2,), "x must be"),
        ((2, 0, 5, 7), (2,), "x may be empty in the batch dimension only"),
        ((0, 5, 7), (2,), "x may be empty in the batch dimension only"),
        ((2, 3, 0, 7), (1,), "x may be empty in the batch dimension only"),
        ((1, 1, 5, 7), (0,), r"kernel_size must be positive and below 2\*\*31, got \(0, 0\)"),
        ((1, 1, 5, 7), (-1,), "kernel_size must be positive"),
        ((1, 1, 5, 7), (2**31,), "kernel_size must be positive"),
        ((1, 1, 5, 7), (2**64,), "kernel_size does not fit"),
        ((1, 1, 5, 7), ((2, 2, 2),), "kernel_size must be an int or a pair of ints, got 3 values"),
        ((1, 1, 5, 7), ([],), "kernel_size must be an int or a pair of ints, got 0 values"),
        ((1, 1, 5, 7), (2, 0), "stride must be positive"),
        ((1, 1, 5, 7), (2, 2**62), "stride must be positive"),
        ((1, 1, 5, 7), (2, 1, -1), "padding must be at least 0"),
        ((1, 1, 5, 7), (2, 1, 2), "padding must be at most half of kernel_size"),
        ((1, 1, 5, 7), (2, 1, 2, 3), "padding must be at most half of kernel_size"),
        ((1, 1, 5, 7), (2, 1, 0, 0), "dilation must be positive"),
        ((1, 1, 5, 7), (9,), "the window spans 9 elements"),
        ((0, 1, 5, 7), (9,), "the window spans 9 elements"),
        ((1, 1, 5, 7), (2**31 - 1, 1, 0, 2**31 - 1), "the window spans"),
    ],
)
def test_bad_sizes(shape, args, message):
    with pytest.raises(ValueError, match=rf"\[max_pool2d\] {message}"):
        fastdl.max_pool2d(np.zeros(shape), *args)


def test_sizes_as_torch_takes_them():
    x = random((1, 1, 5, 7))
    expected = fastdl.max_pool2d(x, 2)
    for size in ([2], (2, 2), np.int64(2)):
        assert_same_bits(fastdl.max_pool2d(x, size), expected)
    assert_same_bits(fastdl.max_pool2d(x, 2, []), expected)
    for size in (2.0, True, "2", None, (2, 2.0)):
        with pytest.raises(TypeError, match="kernel_size must be an int or a pair of ints"):
            fastdl.max_pool2d(x, size)


def test_codes():
    x, sizes = random((1, 2, 4, 6)), (2, 2, 0, 1, False)
    y, codes = fastdl._core.max_pool2d_saved(x, *sizes)
    assert fastdl._core.last_trace()["kernel"] == "small windows, lanes along the output's width"
    assert codes.dtype == np.uint8
    assert fastdl._core.max_pool2d_saved(x, 3, 3, 0, 1, False)[1].dtype == np.int64
    backward = fastdl._core.max_pool2d_backward_codes
    assert backward(y, codes, x.shape, *sizes).shape == x.shape
    assert fastdl._core.last_trace()["kernel"] == "gather from small windows"
    with pytest.raises(ValueError, match="codes must have shape"):
        backward(y, codes[:, :1], x.shape, *sizes)
    with pytest.raises(ValueError, match="there are no codes for these windows"):
        backward(y[..., :1, :2], codes[..., :1, :2], x.shape, 3, 3, 0, 1, False)
    with pytest.raises(TypeError, match="codes must be a uint8 array, got int64"):
        backward(y, codes.astype(np.int64), x.shape, *sizes)


def test_errors():
    x = random((1, 2, 4, 6))
    y, indices = fastdl.max_pool2d(x, 2, return_indices=True)
    backward = fastdl.max_pool2d_backward
    assert_rejects_bad_arrays(lambda bad: fastdl.max_pool2d(bad, 2), x)
    assert_rejects_bad_arrays(lambda bad: backward(bad, indices, x.shape), y)
    with pytest.raises(TypeError, match="indices must be an array of signed integers"):
        backward(y, y, x.shape)
    with pytest.raises(ValueError, match=r"\[max_pool2d\] out "):
        fastdl.max_pool2d(x, 2, out=np.zeros((1, 2, 2, 4)))
    for shape in [(1, 2, 4), (2, 1, 4, 6), (1, -2, 4, 6), (1, 2, 0, 6), (4, 6)]:
        with pytest.raises(ValueError, match="input_size"):
            backward(y, indices, shape)
    with pytest.raises(ValueError, match="dy may be empty"):
        backward(y[:, :, :0], indices[:, :, :0], x.shape)
    with pytest.raises(ValueError, match="indices must have shape"):
        backward(y, indices[..., 1:], x.shape)
    for value in (-2, 24, 2**62, -(2**63)):
        bad = indices.copy()
        bad[0, 1, 1, 0] = value
        with pytest.raises(ValueError, match=rf"indices\[9\] of the flat array is {value}, out of"):
            backward(y, bad, x.shape)
