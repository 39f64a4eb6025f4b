import re

import numpy as np
import pytest

import fastdl
from tests.testing import assert_rejects_bad_arrays, random

ERRORS = [
    ((5, 5), (4, 3, 3, 3), {}, "x must have shape (N, C, H, W) or (C, H, W), got (5, 5)"),
    ((1, 2, 3, 5, 5), (4, 3, 3, 3), {}, "x must have shape (N, C, H, W) or (C, H, W)"),
    ((2, 3, 5, 5), (4, 3, 3), {}, "weight must have shape (out, in / groups, height, width)"),
    (
        (2, 4, 5, 5),
        (4, 3, 3, 3),
        {},
        "weight has 3 input channels per group, x has 4 channels and groups=1",
    ),
    (
        (2, 4, 5, 5),
        (4, 3, 3, 3),
        {"groups": 2},
        "weight has 3 input channels per group, x has 4 channels and groups=2",
    ),
    (
        (2, 4, 5, 5),
        (5, 2, 3, 3),
        {"groups": 2},
        "weight has 5 output channels, which groups=2 does not divide",
    ),
    ((2, 3, 5, 5), (0, 3, 3, 3), {}, "weight has no output channels"),
    ((2, 3, 5, 5), (4, 3, 0, 3), {}, "weight has an empty kernel"),
    ((2, 3, 0, 5), (4, 3, 3, 3), {"padding": 3}, "x has an empty plane"),
    (
        (0, 3, 5, 5),
        (4, 3, 6, 3),
        {},
        "the window of weight is larger than the padded x: height 6 > 5",
    ),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"dilation": (1, 4), "padding": 1}, "width 9 > 7"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"stride": (1, 0)}, "stride must be positive, got (1, 0)"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"dilation": -1}, "dilation must be positive, got (-1, -1)"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": (0, -1)}, "padding must not be negative"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"groups": 0}, "groups must be positive, got 0"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"groups": -3}, "groups must be positive, got -3"),
    (
        (2, 3, 5, 5),
        (4, 3, 3, 3),
        {"padding": "same", "stride": 2},
        'padding="same" needs stride 1, got stride (2, 2)',
    ),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": "full"}, 'or "valid", got "full"'),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": ""}, 'or "valid", got ""'),
    (
        (2, 3, 5, 5),
        (4, 3, 3, 3),
        {"padding": (1, 2, 3)},
        "padding must be an int or a pair of ints, got 3",
    ),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"stride": ()}, "stride must be an int or a pair of ints, got 0"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"dilation": 2**62}, "overflows 64 bits"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": 2**62}, "overflows 64 bits"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": 2**70}, "padding does not fit 64 bits"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"groups": 2**63 - 1}, "groups=9223372036854775807"),
    ((2, 3, 5, 5), (4, 3, 3, 3), {"padding": 2**33}, "overflows 64 bits"),  # the size of y
]


@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "message"), ERRORS, ids=str)
def test_shapes_and_options(x_shape, weight_shape, options, message):
    x, weight = np.zeros(x_shape), np.zeros(weight_shape)
    with pytest.raises(ValueError, match=r"^\[\w+\] .*" + re.escape(message)):
        fastdl.conv2d(x, weight, **options)
    with pytest.raises(ValueError, match=r"^\[\w+\] "):
        fastdl.conv2d_backward(np.zeros((2, 4, 3, 3)), x, weight, **options)


@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [1.0, True, None, (1, 2.0), (True, 1)], ids=str)
def test_option_types(option, value):
    x, weight = np.zeros((2, 3, 5, 5)), np.zeros((4, 3, 3, 3))
    with pytest.raises(TypeError, match=rf"^\[conv2d\] {option} must be an int or a pair"):
        fastdl.conv2d(x, weight, **{option: value})
    with pytest.raises(TypeError, match=rf"^\[conv2d_backward\] {option} must be an int or a pair"):
        fastdl.conv2d_backward(np.zeros((2, 4, 3, 3)), x, weight, **{option: value})


def test_options_of_other_integer_types():
    x, weight = random((2, 3, 5, 5)), random((4, 3, 3, 3), seed=1)
    expected = fastdl.conv2d(x, weight, stride=2, padding=(1, 2))
    for options in (
        {"stride": np.int32(2), "padding": [1, 2]},
        {"stride": (2,), "padding": (1, np.int64(2))},
    ):
        np.testing.assert_array_equal(fastdl.conv2d(x, weight, **options), expected)


def test_bias():
    x, weight = np.zeros((2, 3, 5, 5)), np.zeros((4, 3, 3, 3))
    for shape in ((3,), (1,), (4, 1), ()):
        with pytest.raises(ValueError, match=r"\[conv2d\] bias must have shape \(4,\)"):
            fastdl.conv2d(x, weight, np.zeros(shape))
    with pytest.raises(TypeError, match=r"\[conv2d\] bias is float32, x is float64"):
        fastdl.conv2d(x, weight, np.zeros(4, np.float32))


def test_arrays():
    x, weight, dy = np.zeros((2, 3, 5, 5)), np.zeros((4, 3, 3, 3)), np.zeros((2, 4, 3, 3))
    assert_rejects_bad_arrays(lambda bad: fastdl.conv2d(bad, weight), x)
    assert_rejects_bad_arrays(lambda bad: fastdl.conv2d(x, bad), weight)
    assert_rejects_bad_arrays(lambda bad: fastdl.conv2d_backward(bad, x, weight), dy)
    with pytest.raises(TypeError, match=r"\[conv2d\] weight is float32, x is float64"):
        fastdl.conv2d(x, weight.astype(np.float32))
    with pytest.raises(TypeError, match=r"\[conv2d_backward\] dy is float32, x is float64"):
        fastdl.conv2d_backward(dy.astype(np.float32), x, weight)
    for shape in ((2, 4, 5, 5), (4, 3, 3), (2, 3, 3, 3)):
        with pytest.raises(
            ValueError, match=r"\[conv2d_backward\] dy must have shape \(2, 4, 3, 3\)"
        ):
            fastdl.conv2d_backward(np.zeros(shape), x, weight)


def test_out():
    x, weight = np.zeros((2, 3, 5, 5)), np.zeros((4, 3, 3, 3))
    read_only = np.zeros((2, 4, 3, 3))
    read_only.flags.writeable = False
    for out, error in [
        (read_only, ValueError),
        (x.reshape(-1)[:72].reshape(2, 4, 3, 3), ValueError),  # overlaps
        (np.zeros((2, 4, 3, 4)), ValueError),
        (np.zeros((2, 4, 3, 3), np.float32), TypeError),
    ]:
        with pytest.raises(error, match=r"\[conv2d\] out "):
            fastdl.conv2d(x, weight, out=out)


def test_too_large_a_result():
    with pytest.raises(MemoryError):
        fastdl.conv2d(np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 1, 1)), padding=2**22)
