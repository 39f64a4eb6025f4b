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

TILE_4, TILE_2 = "Winograd F(4x4, 3x3)", "Winograd F(2x2, 3x3)"
FIVE, STRIDE_2 = "Winograd F(2x2, 5x5)", "Winograd F(4x4, 3x3) of stride 2"
DIRECT = "direct, lanes along the "  # channels or pixels


def factor_of(precision, dtype):
    """Over 8 eps: 16 eps with "auto", 4 eps with "strict"; the float64 reference errs itself."""
    return 2.0 if precision == "auto" else 0.5 if dtype == np.float32 else 1.0


@pytest.fixture(params=["auto", "strict"])
def precision(request):
    fastdl.set_precision(request.param)
    yield request.param
    fastdl.set_precision("auto")


def case(x, out_channels, id, groups=1, padding=1, kernel=3, **options):
    weight = (out_channels, x[-3] // groups, kernel, kernel)
    return pytest.param(x, weight, {"padding": padding, "groups": groups, **options}, id=id)


CASES = [
    case((2, 17, 17, 19), 21, "odd plane and channels"),
    case((16, 7, 9), 16, "one image"),
    case((3, 16, 6, 5), 18, "no padding", padding=0),
    case((2, 16, 6, 7), 16, "wide padding", padding=(3, 2)),
    case((2, 16, 5, 7), 16, "same", padding="same"),
    case((2, 40, 8, 8), 48, "groups", groups=2),
    case((1, 70, 9, 9), 130, "several panels of channels, few tiles"),
    case((5, 66, 31, 15), 67, "several panels of channels, many tiles"),
    case((1, 16, 8, 300), 16, "parts of rows of tiles"),
    case((2, 32, 33, 30), 35, "dilation 4", padding=4, dilation=4),
    case((1, 32, 29, 21), 32, "dilation 3 and 2", padding=(1, 4), dilation=(3, 2)),
    case((1, 32, 9, 600), 32, "dilation 2 and 5, parts of rows", dilation=(2, 5)),
    case((3, 33, 27, 13), 37, "5x5", padding=2, kernel=5),
    case((1, 66, 6, 8), 70, "5x5, several panels of channels", kernel=5),
    case((1, 32, 23, 14), 32, "5x5, dilation 2", padding=3, kernel=5, dilation=2),
    case((8, 48, 31, 23), 50, "stride 2", stride=2),
    case((4, 70, 30, 64), 66, "stride 2, wide padding", padding=(3, 1), stride=2),
    case((1, 48, 14, 480), 48, "stride 2, parts of rows", stride=2),
]


def inputs(x_shape, weight_shape, options, dtype):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    bias = random(weight_shape[:1], dtype, seed=2)
    y = reference.conv2d_forward(x, weight, bias, **options)
    return x, weight, bias, random(y.shape, dtype, seed=3), y


def winograd_kernels():
    """Of the last call, "" where another kernel ran."""
    kernel = _core.last_trace()["kernel"]
    return next((name for name in (STRIDE_2, TILE_4, TILE_2, FIVE) if name in kernel), "")


def wanted_kernel(precision, weight_shape, stride=1, **_):
    """As winograd_kernels()."""
    auto, strict = {
        (3, 1): (TILE_4, TILE_2),
        (5, 1): (FIVE, ""),
        (3, 2): (STRIDE_2, ""),
    }[weight_shape[-1], stride]
    return auto if precision == "auto" else strict


@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), CASES)
def test_forward_and_backward(cpu_isa, dtype, precision, x_shape, weight_shape, options):
    x, weight, bias, dy, expected = inputs(x_shape, weight_shape, options, dtype)
    kernel = wanted_kernel(precision, weight_shape, **options)
    factor = factor_of(precision, dtype)
    reason = "the precision is strict" if precision == "strict" and kernel else ""
    y = fastdl.conv2d(x, weight, bias, **options)
    assert _core.last_trace()["kernel"].startswith(kernel or DIRECT)
    assert _core.last_trace()["reason"] == reason
    assert_close(y, expected, factor=factor)
    gradients = fastdl.conv2d_backward(dy, x, weight, **options)
    dx, dweight = (kernel, kernel) if kernel else (DIRECT, "direct")
    assert _core.last_trace()["kernel"].startswith(f"dx: {dx}")
    assert _core.last_trace()["kernel"].endswith(f"; dweight: {dweight}")
    assert _core.last_trace()["reason"] == reason
    for actual, wanted in zip(
        gradients[:2], reference.conv2d_backward(dy, x, weight, **options)[:2], strict=True
    ):
        assert_close(actual, wanted, factor=factor)
    np.testing.assert_array_equal(
        fastdl.conv2d(x, weight, **options), fastdl.conv2d(x, weight, 0 * bias, **options)
    )


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options", "forward"),
    [
        ((2, 16, 8, 8), (15, 16, 3, 3), {"padding": 1}, ""),
        ((2, 15, 8, 8), (16, 15, 3, 3), {"padding": 1}, ""),
        ((2, 16, 8, 8), (16, 16, 3, 3), {"stride": 2}, ""),
        ((2, 16, 8, 8), (16, 16, 3, 3), {"padding": 4, "dilation": 4}, ""),
        ((2, 32, 8, 8), (32, 32, 3, 3), {"padding": 4, "dilation": 4}, TILE_2),  # 2x2 tiles
        ((2, 32, 8, 8), (32, 32, 3, 3), {"padding": 7, "dilation": 7}, ""),
        ((1, 32, 40, 40), (32, 32, 3, 3), {"padding": 17, "dilation": 17}, ""),
        ((1, 48, 16, 16), (48, 48, 3, 3), {"padding": 2, "dilation": 2, "stride": 2}, ""),
        ((1, 48, 16, 16), (47, 48, 3, 3), {"padding": 1, "stride": 2}, ""),
        ((1, 48, 14, 14), (48, 48, 3, 3), {"padding": 1, "stride": 2}, ""),  # tiles of 16
        ((1, 256, 16, 16), (129, 256, 3, 3), {"padding": 1, "stride": 2}, ""),  # many weights
        ((2, 16, 8, 8), (16, 16, 3, 2), {}, ""),
        ((2, 32, 1, 1), (32, 32, 5, 5), {"padding": 2}, ""),
        ((2, 31, 8, 8), (32, 31, 5, 5), {"padding": 2}, ""),
        ((2, 16, 9, 9), (16, 16, 7, 7), {}, ""),
        ((2, 16, 2, 2), (16, 16, 3, 3), {"padding": 1}, TILE_2),  # one tile either way
        ((2, 16, 1, 1), (16, 16, 3, 3), {"padding": 1}, ""),  # most of a tile is wasted
        ((0, 16, 8, 8), (16, 16, 3, 3), {"padding": 1}, ""),
    ],
    ids=str,
)
def test_choice(x_shape, weight_shape, options, forward):
    x, weight, _, dy, _ = inputs(x_shape, weight_shape, options, np.float64)
    y = fastdl.conv2d(x, weight, **options)
    assert winograd_kernels() == forward
    assert_close(y, reference.conv2d_forward(x, weight, **options))
    fastdl.conv2d_backward(dy, x, weight, **options)
    assert winograd_kernels() == forward


@pytest.mark.parametrize(
    ("x_shape", "out_channels", "kernel"),
    [
        ((2, 16, 30, 30), 16, 3),
        ((1, 130, 8, 8), 140, 3),
        ((40, 16, 30, 30), 16, 3),
        ((20, 32, 30, 30), 32, 5),
    ],
    ids=["tiles in parts", "several jobs", "many tiles", "5x5, many tiles"],
)
def test_weight_gradient(cpu_isa, dtype, precision, x_shape, out_channels, kernel):
    x, dy = random(x_shape, dtype), random((x_shape[0], out_channels, *x_shape[2:]), dtype, seed=1)
    weight = np.zeros((out_channels, x_shape[1], kernel, kernel), dtype)
    padding = kernel // 2
    _, dweight, _ = fastdl.conv2d_backward(dy, x, weight, padding=padding, output_mask=(0, 1, 0))
    assert winograd_kernels() == wanted_kernel(precision, weight.shape)
    _, expected, _ = reference.conv2d_backward(dy, x, weight, padding=padding)
    assert_close(dweight, expected, factor=factor_of(precision, dtype))


def test_stride_2_with_even_padding():
    options = {"stride": 2, "padding": 2}
    x, weight, bias, dy, expected = inputs((8, 48, 29, 29), (48, 48, 3, 3), options, np.float64)
    assert_close(fastdl.conv2d(x, weight, bias, **options), expected, factor=2)
    assert winograd_kernels() == STRIDE_2
    gradients = fastdl.conv2d_backward(dy, x, weight, **options)
    assert _core.last_trace()["kernel"] == f"dx: {DIRECT}channels; dweight: {STRIDE_2}"
    for actual, wanted in zip(
        gradients[:2], reference.conv2d_backward(dy, x, weight, **options)[:2], strict=True
    ):
        assert_close(actual, wanted, factor=2)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels", [256, 512])
def test_error_of_long_sums(precision, channels, kernel):
    x, weight, *_ = inputs((2, channels, 14, 14), (32, channels, kernel, kernel), {}, np.float32)
    expected = reference.conv2d_forward(x, weight)
    assert_close(fastdl.conv2d(x, weight), expected, factor=factor_of(precision, np.float32))


@pytest.mark.parametrize("where", ["x", "weight", "dy"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "overflow"], ids=str)
def test_not_finite(cpu_isa, dtype, precision, value, where):
    # in one place of the second image: its neighbours in the tile must stay finite
    options = {"padding": 1}
    x, weight, bias, dy, _ = inputs((2, 16, 9, 21), (16, 16, 3, 3), options, dtype)
    array = {"x": x, "weight": weight, "dy": dy}[where]
    # the largest number: its products with weights below 1 are finite, their sums in a tile are not
    array[1, 3, 0, 1] = np.finfo(dtype).max if value == "overflow" else value
    with np.errstate(all="ignore"):
        y = reference.conv2d_forward(x, weight, bias, **options)
        gradients = reference.conv2d_backward(dy, x, weight, **options)
    # what overflows in the float32 of the direct kernel does not in the float64 of the reference
    actual = fastdl.conv2d(x, weight, bias, **options)
    trace = _core.last_trace()
    if where != "dy":
        assert trace["kernel"].startswith(DIRECT) and "inf or NaN" in trace["reason"]
    dx, *_ = fastdl.conv2d_backward(dy, x, weight, **options, output_mask=(1, 0, 0))
    assert ("inf or NaN" in _core.last_trace()["reason"]) == (where != "x")
    _, dweight, _ = fastdl.conv2d_backward(dy, x, weight, **options, output_mask=(0, 1, 0))
    assert ("inf or NaN" in _core.last_trace()["reason"]) == (where != "weight")
    for ours, wanted in ((actual, y), (dx, gradients[0]), (dweight, gradients[1])):
        limit = np.finfo(dtype).max
        clear = ~(np.abs(wanted) > 0.01 * limit)
        if value != "overflow":
            assert_close(ours, wanted, factor=2)
        assert np.isfinite(ours[clear & np.isfinite(wanted)]).all()


def test_small_and_large_values(cpu_isa, dtype, precision):
    x, weight, bias, _, _ = inputs((1, 16, 9, 21), (16, 16, 3, 3), {}, dtype)
    x[0, 0, 0, :4] = -0.0, 1e-40, 1e4, -1e4
    expected = reference.conv2d_forward(x, weight, bias)
    assert_close(fastdl.conv2d(x, weight, bias), expected, factor=factor_of(precision, dtype))


@pytest.mark.parametrize(
    ("x_shape", "weight_shape"),
    [((4, 24, 30, 28), (32, 24, 3, 3)), ((1, 96, 14, 14), (160, 96, 3, 3))],
    ids=["many tiles", "few tiles"],
)
def test_same_bits_for_any_threads(cpu_isa, dtype, x_shape, weight_shape):
    x, weight, _, dy, _ = inputs(x_shape, weight_shape, {}, dtype)
    assert_same_bits_for_any_threads(
        lambda: (fastdl.conv2d(x, weight), *fastdl.conv2d_backward(dy, x, weight))
    )


@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), CASES)
def test_out(cpu_isa, x_shape, weight_shape, options):
    x, weight, bias, _, y = inputs(x_shape, weight_shape, options, np.float32)
    guarded = Guarded(y.shape, np.float32)
    assert fastdl.conv2d(x, weight, bias, **options, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, fastdl.conv2d(x, weight, bias, **options))


def test_against_torch(torch):
    x, weight, bias, dy, _ = inputs((2, 32, 12, 13), (24, 32, 3, 3), {"padding": 1}, np.float64)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    yt = torch.nn.functional.conv2d(*tensors, padding=1)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.conv2d, x, weight, bias, padding=1)
    assert_close(y, yt.detach().numpy(), factor=3)  # both have errors
    for actual, tensor in zip(pullback(dy)[:2], tensors[:2], strict=True):
        assert_close(actual, tensor.grad.numpy(), factor=3)


@pytest.mark.parametrize("x_shape", [(4, 48, 30, 28), (1, 48, 7, 9)], ids=["tiles", "channels"])
def test_packed_weight(cpu_isa, dtype, precision, x_shape):
    x, weight, bias, _, _ = inputs(x_shape, (140, 24, 3, 3), {"groups": 2}, dtype)
    expected = fastdl.conv2d(x, weight, bias, groups=2)
    packed = fastdl.pack_conv2d_weight(weight, groups=2)
    weight[...] = 0  # the packed one is a copy
    assert_same_bits(fastdl.conv2d(x, packed, bias, groups=2), expected)
    assert _core.last_trace()["kernel"] == f"{winograd_kernels()}, weight packed"


def test_packed_weight_for_another_kernel(precision):
    x, weight = random((2, 32, 8, 9), np.float32), random((16, 32, 3, 3), np.float32, seed=1)
    packed = fastdl.pack_conv2d_weight(weight)
    for options in ({"stride": 2}, {"dilation": 7, "padding": 7}):
        expected = fastdl.conv2d(x, weight, **options)
        assert_same_bits(fastdl.conv2d(x, packed, **options), expected)
    fastdl.set_precision("strict" if precision == "auto" else "auto")
    assert_same_bits(fastdl.conv2d(x, packed), fastdl.conv2d(x, weight))
    assert _core.last_trace()["kernel"] == winograd_kernels()
    fastdl.set_precision(precision)
    before = fastdl.get_isa()
    fastdl.set_isa("scalar")
    assert_same_bits(fastdl.conv2d(x, packed), fastdl.conv2d(x, weight))
    fastdl.set_isa(before)


@pytest.mark.parametrize(
    "weight",
    [
        random((8, 32, 3, 3), np.float32),
        random((32, 32, 1, 1), np.float32),
        random((32, 32, 3, 3), np.float16),
        np.zeros((512, 512, 3, 3), np.float32),  # 38 MB
    ],
    ids=["few channels", "1x1", "float16", "large"],
)
def test_weight_that_is_not_packed(weight):
    x = random((1, weight.shape[1], 7, 7), weight.dtype)
    packed = fastdl.pack_conv2d_weight(weight)
    assert packed.packed is None
    assert_same_bits(fastdl.conv2d(x, packed), fastdl.conv2d(x, weight))


def test_packed_weight_errors():
    weight = random((32, 16, 3, 3), np.float32)
    packed = fastdl.pack_conv2d_weight(weight, groups=2)
    with pytest.raises(ValueError, match=r"\[conv2d\] weight was packed for groups=2, not 1"):
        fastdl.conv2d(random((1, 16, 8, 8), np.float32), packed)
    with pytest.raises(TypeError, match=r"\[conv2d\] weight"):
        fastdl.conv2d(random((1, 32, 8, 8), np.float64), packed, groups=2)
    with pytest.raises(ValueError, match=r"\[pack_conv2d_weight\] weight must have shape"):
        fastdl.pack_conv2d_weight(weight[0])
    for groups in (0, 5):
        with pytest.raises(ValueError, match=r"\[pack_conv2d_weight\] .*groups"):
            fastdl.pack_conv2d_weight(weight, groups)
    with pytest.raises(TypeError, match=r"\[pack_conv2d_weight\] weight must be"):
        fastdl.pack_conv2d_weight(weight.tolist())
