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
SMALL = "small windows, lanes along the output's width"
CASES = [
    *[((2, 2, 5, w), (3, 1, 1), {}, SMALL) for w in WIDTHS if w > 1],
    *[((2, 2, 5, 2 * w), (2,), {}, SMALL) for w in WIDTHS if w > 1],
    *[((1, 2, 6, 2 * w + 1), (3, 2, 1), {}, SMALL) for w in WIDTHS],
    *[((1, 1, 7, 3 * w + 2), (3, 3, 1), {}, ROWS) for w in WIDTHS],  # neither stride 1 nor 2
    *[((1, 2, 6, w), ((2, w),), {}, WINDOWS) for w in WIDTHS if w > 2],
    *[((1, 2, 6, w), ((2, w - 1), (1, 2)), {}, WINDOWS) for w in WIDTHS if w > 3],
    ((3, 5, 40), ((3, 2), 1), {}, ROWS),  # unbatched; a row as it lies
    ((1, 2, 6, 40), (1, 2), {}, ROWS),  # one tap; columns of dx outside all windows
    ((1, 2, 9, 50), ((5, 4), (2, 1), (2, 1)), {}, ROWS),
    ((1, 1, 9, 50), ((3, 2), (2, 1), (1, 0)), {}, ROWS),
    ((1, 2, 9, 21), (3, 2), {}, SMALL),
    ((1, 1, 3, 5000), (3, 2, 1), {}, SMALL),  # parts of rows
    ((1, 1, 3, 5000), (3, 1, 1), {}, SMALL),
    ((1, 2, 90, 91), (2, 2, 1), {}, SMALL),  # bands of a plane
    ((1, 1, 20, 60), (19, 1, 9), {}, ROWS),  # more taps than a group of the reduction
    ((1, 1, 9, 40), (2, (3, 4)), {}, ROWS),  # gaps between the windows
    ((1, 1, 5, 35), (2,), {"ceil_mode": True}, SMALL),
    ((1, 1, 5, 34), (3, 2, 1), {"ceil_mode": True}, SMALL),
    ((1, 1, 5, 5), (2, 2, 1), {"ceil_mode": True}, SMALL),  # no window starts in the right padding
    # the last window reaches beyond the right padding, which does not count
    ((1, 1, 7, 37), (4, 3, 1), {"ceil_mode": True}, ROWS),
    ((2, 3, 7, 7), (7,), {}, WINDOWS),
    ((1, 1, 60, 70), ((60, 70),), {}, WINDOWS),  # several blocks of 64 vectors
    ((1, 1, 5, 6), (9, 3, 4), {"ceil_mode": True}, WINDOWS),
    ((1, 1, 4, 300), (2, 99), {}, WINDOWS),  # too many columns modulo the stride
    ((0, 2, 4, 4), (2,), {}, None),
]
COUNTS = [
    {},
    {"count_include_pad": False},
    {"divisor_override": 3},
    {"count_include_pad": False, "divisor_override": -2},
]


def used_kernel():
    return fastdl._core.last_trace()["kernel"]


@pytest.mark.parametrize("count", COUNTS, ids=str)
@pytest.mark.parametrize(("shape", "sizes", "options", "kernel"), CASES, ids=str)
def test_forward_and_backward(isa, dtype, shape, sizes, options, kernel, count):
    x = random(shape, dtype)
    y = fastdl.avg_pool2d(x, *sizes, **options, **count)
    assert kernel in (used_kernel(), None)
    assert y.dtype == dtype
    y64 = reference.avg_pool2d_forward(x, *sizes, **options, **count)
    # the terms of a sum may cancel: the error scales with them, not with what is left
    scale = reference.avg_pool2d_forward(abs(x), *sizes, **options, **count)
    assert_close(y, y64, scale=np.max(abs(scale), initial=0))
    dy = random(y.shape, dtype, seed=1)
    dx = fastdl.avg_pool2d_backward(dy, shape, *sizes, **options, **count)
    assert kernel in (used_kernel(), None)
    assert_close(dx, reference.avg_pool2d_backward(dy, shape, *sizes, **options, **count))


@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 1, 1), ((2, 3), 3, 1, True)], ids=str)
def test_against_torch(torch, dtype, sizes):
    x = random((2, 3, 13, 37), dtype)
    xt = torch.tensor(x, requires_grad=True)
    yt = torch.nn.functional.avg_pool2d(xt, *sizes)
    dy = random(yt.shape, dtype, seed=1)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.avg_pool2d, x, *sizes)
    assert_close(y, yt.detach().numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy())


def test_windows_far_larger_than_the_plane(isa, dtype):
    x = random((1, 1, 3, 4), dtype)
    k = 2**31 - 1
    for count, options in [(12, {"count_include_pad": False}), (7, {"divisor_override": 7})]:
        y, pullback = fastdl.vjp(fastdl.avg_pool2d, x, k, k, 2**30 - 1, True, **options)
        assert_close(y, np.full((1, 1, 1, 1), x.sum(dtype=np.float64) / count), scale=1)
        assert_close(pullback(np.ones_like(y))[0], np.full(x.shape, 1 / count))


@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 3, 1), (2, 1, 1), (29, 1, 14)], ids=str)
def test_special_values(isa, dtype, sizes):
    # body and tail; NaN and inf stay in the windows they lie in
    row = np.array([1, np.inf, 1, 1, 1, -np.inf, np.inf, 2, 3, 4, np.nan, 1e4, 1e-45, -0.0], dtype)
    x = np.tile(np.append(row, np.arange(15)), (1, 4, 3)).astype(dtype)
    y = fastdl.avg_pool2d(x, *sizes)
    assert_close(y, reference.avg_pool2d_forward(x, *sizes))
    dy = np.resize(x, y.shape)
    dx = fastdl.avg_pool2d_backward(dy, x.shape, *sizes)
    with np.errstate(invalid="ignore"):
        assert_close(dx, reference.avg_pool2d_backward(dy, x.shape, *sizes))


def test_any_layout(dtype):
    x = random((2, 3, 8, 9), dtype)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        plain = np.ascontiguousarray(array, dtype)
        assert_same_bits(fastdl.avg_pool2d(array, 3, 2, 1), fastdl.avg_pool2d(plain, 3, 2, 1))
    dy = random((2, 3, 4, 5), dtype)
    dx = fastdl.avg_pool2d_backward(dy, x.shape, 3, 2, 1)
    for array in layouts(dy).values():
        assert_same_bits(fastdl.avg_pool2d_backward(array, x.shape, 3, 2, 1), dx)


# several planes a block, planes cut into bands of rows
@pytest.mark.parametrize("shape", [(40, 3, 50, 60), (1, 2, 700, 301)], ids=str)
@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 1, 1), (40, 45)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape, sizes):
    x = random(shape, dtype)
    dy = random(fastdl.avg_pool2d(x, *sizes).shape, dtype, seed=1)

    def run():
        y, pullback = fastdl.vjp(fastdl.avg_pool2d, x, *sizes)
        return (y, *pullback(dy))

    assert_same_bits_for_any_threads(run)


@pytest.mark.parametrize("sizes", [(2,), (3, 2, 1), (3, 3, 1), (11, 1, 5), (20,)], ids=str)
def test_out(isa, dtype, sizes):
    x = random((2, 3, 20, 21), dtype)
    expected = fastdl.avg_pool2d(x, *sizes)
    guarded = Guarded(expected.shape, dtype)
    assert fastdl.avg_pool2d(x, *sizes, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, expected)


@pytest.mark.parametrize(
    ("shape", "args", "message"),
    [
        ((5, 7), (2,), r"x must be \(N, C, H, W\) or \(C, H, W\), got shape \(5, 7\)"),
        ((2, 0, 5, 7), (2,), "x may be empty in the batch dimension only"),
        ((1, 1, 5, 7), (0,), "kernel_size must be positive"),
        ((1, 1, 5, 7), (2, 0), "stride must be positive"),
        ((1, 1, 5, 7), (2, 1, -1), "padding must be at least 0"),
        ((1, 1, 5, 7), (2, 1, 2), "padding must be at most half of kernel_size"),
        ((1, 1, 5, 7), (9,), "the window spans 9 elements"),
        ((1, 1, 5, 7), (2, 2, 0, False, True, 0), "divisor_override must not be 0"),
    ],
)
def test_bad_sizes(shape, args, message):
    with pytest.raises(ValueError, match=rf"\[avg_pool2d\] {message}"):
        fastdl.avg_pool2d(np.zeros(shape), *args)
    message = message.replace("x m", "input_size m")
    with pytest.raises(ValueError, match=rf"\[avg_pool2d_backward\] {message}"):
        fastdl.avg_pool2d_backward(np.zeros((1, 1, 1, 1)), shape, *args)


def test_errors():
    x = random((1, 2, 4, 6))
    y = fastdl.avg_pool2d(x, 2)
    assert_rejects_bad_arrays(lambda bad: fastdl.avg_pool2d(bad, 2), x)
    assert_rejects_bad_arrays(lambda bad: fastdl.avg_pool2d_backward(bad, x.shape, 2), y)
    for override in (2.0, True):
        with pytest.raises(TypeError, match="divisor_override must be an int or None"):
            fastdl.avg_pool2d(x, 2, divisor_override=override)
    with pytest.raises(ValueError, match=r"\[avg_pool2d\] out "):
        fastdl.avg_pool2d(x, 2, out=np.zeros((1, 2, 2, 4)))
    with pytest.raises(ValueError, match=r"dy must have shape \(1, 2, 2, 3\)"):
        fastdl.avg_pool2d_backward(y[..., 1:], x.shape, 2)
    with pytest.raises(ValueError, match="input_size may be empty in the batch dimension only"):
        fastdl.avg_pool2d_backward(y, (1, 2, -4, 6), 2)
    with pytest.raises(TypeError, match="input_size must be a sequence of ints"):
        fastdl.avg_pool2d_backward(y, 4, 2)
