import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_kernel,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
    random,
)

POINTWISE = "matrix product over the pixels of all images"
IMPLICIT = "implicit GEMM, patches packed per block"
PIXELS = "direct, lanes along the pixels"
DEPTHWISE = "depthwise, lanes along the width"
DIRECT = "direct, lanes along the channels"
TAPS = "direct, lanes along the taps"
SAME = "depthwise, lanes along the plane"
GROUPED = "grouped, lanes along the width"
TO_X_GROUPED = "dx: grouped"
FLIPPED = "dx: implicit GEMM with the flipped weight"
TO_X_DIRECT, TO_X_PIXELS = f"dx: {DIRECT}", f"dx: {PIXELS}"
TO_X_POINTWISE = f"dx: {POINTWISE}"
SCATTER = "dx: patches of the product added up"


def case(x, weight, forward, to_x, id, **options):
    return pytest.param(x, weight, options, forward, to_x, id=id)


# Shapes, the kernel that forward and the gradient of x take, and what is special about them.
CASES = [
    case((2, 3, 7, 9), (5, 3, 3, 3), PIXELS, FLIPPED, "odd plane"),
    case((2, 5, 9, 8), (4, 5, 3, 2), PIXELS, TO_X_PIXELS, "padded", padding=(1, 2)),
    case((3, 6, 14, 14), (16, 6, 5, 5), PIXELS, SCATTER, "LeNet: few channels"),
    case((6, 8, 7), (3, 6, 3, 3), IMPLICIT, TO_X_PIXELS, "one image", padding=1),
    case((2, 17, 6, 5), (19, 17, 1, 1), POINTWISE, TO_X_POINTWISE, "pointwise"),
    case((1, 3, 1, 1), (2, 3, 1, 1), POINTWISE, TO_X_POINTWISE, "one pixel"),
    case((2, 3, 5, 4), (4, 3, 1, 1), PIXELS, FLIPPED, "padded pointwise", padding=2),
    case((1, 40, 20, 21), (9, 40, 3, 3), PIXELS, TO_X_PIXELS, "several blocks", padding=1),
    case((1, 2, 3, 700), (3, 2, 2, 3), IMPLICIT, FLIPPED, "rows wider than a block", padding=1),
    case((1, 3, 31, 33), (4, 3, 7, 7), PIXELS, SCATTER, "stem", stride=2, padding=3),
    case((2, 5, 9, 9), (3, 5, 1, 1), POINTWISE, TO_X_POINTWISE, "strided pointwise", stride=2),
    case((3, 4, 8, 70), (9, 4, 1, 1), POINTWISE, TO_X_POINTWISE, "an end of zeros", stride=2),
    case((2, 4, 13, 9), (9, 4, 1, 1), POINTWISE, TO_X_POINTWISE, "far pixels", stride=(5, 3)),
    case((9, 2, 4, 4), (3, 2, 1, 1), POINTWISE, TO_X_POINTWISE, "one pixel each", stride=9),
    # 530 terms are summed up in two parts; 530 x 300 weights are packed for the gradient
    case((5, 530, 3, 3), (300, 530, 1, 1), POINTWISE, TO_X_POINTWISE, "many channels"),
    case((3, 9, 7, 9), (530, 9, 1, 1), POINTWISE, TO_X_POINTWISE, "strided parts", stride=2),
    case((2, 3, 17, 31), (9, 3, 1, 1), POINTWISE, TO_X_POINTWISE, "pointwise blocks"),
    case((0, 3, 5, 5), (4, 3, 1, 1), POINTWISE, TO_X_POINTWISE, "empty pointwise"),
    case((1, 4, 12, 13), (2, 4, 2, 3), IMPLICIT, SCATTER, "strides", stride=(3, 5), padding=(0, 1)),
    case((1, 3, 9, 11), (2, 3, 3, 2), IMPLICIT, FLIPPED, "dilated", dilation=(2, 3), padding=2),
    case((1, 3, 13, 11), (2, 3, 3, 2), IMPLICIT, SCATTER, "both", dilation=(2, 3), stride=2),
    case((1, 2, 3, 4), (3, 2, 2, 2), IMPLICIT, FLIPPED, "wide padding", padding=5),
    case((1, 2, 5, 5), (3, 2, 2, 2), IMPLICIT, FLIPPED, "far taps", dilation=100, padding=50),
    # 549 taps: a part of a vector; 1179: two parts; 127 and 57 channels: blocks and tiles not full
    case((2, 61, 9, 11), (127, 61, 3, 3), TAPS, TO_X_DIRECT, "few outputs", stride=2, padding=1),
    case((131, 7, 5), (57, 131, 3, 3), TAPS, TO_X_DIRECT, "two parts", stride=(1, 2), padding=2),
    case((2, 6, 7, 6), (8, 3, 3, 3), GROUPED, TO_X_GROUPED, "groups", groups=2, padding=1),
    case((2, 6, 7, 6), (4, 3, 3, 3), GROUPED, TO_X_GROUPED, "strided groups", groups=2, stride=2),
    # 4, 2 and 1 outputs at once; 19 columns: a vector and a tail; 15 rows: 8, 4, 2 and 1 at once
    case((3, 8, 15, 19), (8, 4, 3, 3), GROUPED, TO_X_GROUPED, "groups of 4", groups=2, padding=1),
    case((2, 6, 15, 19), (6, 2, 5, 5), GROUPED, TO_X_GROUPED, "groups, 5x5", groups=3, padding=2),
    case((2, 9, 16, 7), (6, 3, 3, 5), GROUPED, TO_X_GROUPED, "groups, 3x5", groups=3, stride=2,
         padding=(1, 2)),
    case((1, 4, 12, 13), (12, 2, 4, 3), GROUPED, TO_X_GROUPED, "groups, any window", groups=2,
         stride=(3, 2), dilation=(1, 2), padding=(2, 1)),
    case((2, 32, 9, 6), (32, 16, 3, 3), GROUPED, TO_X_GROUPED, "groups of 16", groups=2, padding=1),
    case((1, 8, 70, 90), (4, 4, 3, 3), GROUPED, TO_X_GROUPED, "groups in bands", groups=2),
    case((1, 8, 4, 5000), (8, 4, 3, 3), GROUPED, TO_X_GROUPED, "groups, parts of rows", groups=2,
         stride=2, padding=1),
    case((1, 4, 13, 31), (4, 2, 3, 3), GROUPED, SCATTER, "groups, large stride", groups=2,
         stride=5),
    case((0, 4, 5, 5), (4, 2, 3, 3), GROUPED, TO_X_GROUPED, "empty groups", groups=2),
    case((2, 6, 6, 5), (4, 3, 1, 1), POINTWISE, TO_X_POINTWISE, "pointwise groups", groups=2),
    case((1, 2, 7, 6), (3, 2, 3, 3), IMPLICIT, FLIPPED, "same", padding="same"),
    case((1, 2, 7, 6), (3, 2, 2, 4), IMPLICIT, FLIPPED, "same, even", padding="same"),
    case((1, 2, 7, 6), (3, 2, 3, 3), IMPLICIT, SCATTER, "valid", padding="valid", stride=2),
    case((2, 5, 9, 35), (5, 1, 3, 3), SAME, "dx: depthwise", "depthwise", groups=5, padding=1),
    case((3, 2, 7, 7), (2, 1, 5, 5), SAME, "dx: depthwise", "5x5 depthwise", groups=2, padding=2),
    case((1, 2, 5, 3), (2, 1, 7, 7), SAME, "dx: depthwise", "more taps than columns", groups=2,
         padding=3),
    case((2, 2, 5, 1), (2, 1, 3, 3), SAME, "dx: depthwise", "one column", groups=2, padding=1),
    case((1, 2, 50, 83), (2, 1, 5, 5), SAME, "dx: depthwise", "parts of a plane", groups=2,
         padding=2),
    case((2, 3, 9, 18), (6, 1, 3, 3), DEPTHWISE, "dx: depthwise", "multiplier", groups=3, stride=2),
    case((1, 4, 12, 9), (4, 1, 5, 3), DEPTHWISE, "dx: depthwise", "strides, depthwise", groups=4,
         stride=(2, 3), dilation=(1, 2), padding=(2, 1)),
    case((2, 3, 9, 35), (3, 1, 3, 3), DEPTHWISE, "dx: depthwise", "strided", groups=3, stride=2,
         padding=1),
    case((1, 2, 70, 91), (2, 1, 5, 5), DEPTHWISE, "dx: depthwise", "strided bands", groups=2,
         stride=2, padding=2),
    case((1, 2, 6, 20), (2, 1, 5, 5), DEPTHWISE, "dx: depthwise", "strided, padded", groups=2,
         stride=2, padding=7),
    case((1, 2, 7, 5000), (2, 1, 3, 3), DEPTHWISE, "dx: depthwise", "strided rows", groups=2,
         stride=2),
    case((2, 3, 6, 7), (3, 1, 3, 3), DEPTHWISE, "dx: depthwise", "sparse", groups=3, stride=4),
    case((3, 1, 28, 28), (6, 1, 5, 5), PIXELS, "dx: depthwise", "one channel", padding=2),
    case((1, 2, 5, 5), (2, 1, 2, 2), DEPTHWISE, "dx: depthwise", "far taps, depthwise", groups=2,
         dilation=100, padding=50),
    case((1, 2, 3, 40), (2, 1, 3, 19), DEPTHWISE, "dx: depthwise", "wide kernel", groups=2,
         padding=(1, 9)),
    case((3, 1, 9, 9), (9, 1, 3, 3), PIXELS, SCATTER, "one channel to many", padding=1),
    # 97 channels: a strip of each number of vectors; 19 outputs fill no tile
    case((2, 68, 9, 8), (97, 68, 3, 2), DIRECT, TO_X_DIRECT, "direct", padding=(1, 2)),
    case((5, 20, 4, 4), (20, 20, 3, 2), DIRECT, TO_X_DIRECT, "images in one block", padding=1),
    # dweight: 5 images at a time, of 52 and in the end 44 channels
    case((5, 512, 14, 14), (16, 512, 3, 3), DIRECT, TO_X_DIRECT, "parts", padding=1, stride=2),
    case((1, 70, 1, 700), (70, 70, 1, 6), DIRECT, TO_X_DIRECT, "rows in parts", padding=(0, 1)),
    case((1, 9, 5, 700), (9, 9, 3, 3), DIRECT, TO_X_DIRECT, "phases in parts", padding=1, stride=2),
    case((2, 12, 9, 9), (13, 12, 2, 2), DIRECT, TO_X_DIRECT, "phases without taps", stride=3),
    case((1, 8, 12, 13), (12, 8, 4, 3), DIRECT, TO_X_DIRECT, "phases", stride=(3, 2),
         padding=(0, 1)),
    case((1, 70, 9, 11), (70, 70, 3, 2), DIRECT, TO_X_DIRECT, "direct, dilated", dilation=(2, 3),
         padding=2),
    case((1, 9, 13, 11), (8, 9, 3, 2), DIRECT, SCATTER, "direct, both", dilation=(2, 3), stride=2),
    case((1, 8, 13, 31), (8, 8, 3, 3), DIRECT, SCATTER, "large stride", stride=5),
    case((2, 36, 7, 6), (68, 18, 3, 3), DIRECT, TO_X_DIRECT, "direct, groups", groups=2, stride=2,
         padding=1),
    case((2, 70, 9, 9), (8, 70, 3, 3), DIRECT, TO_X_DIRECT, "several depths", stride=2, padding=1),
    case((1, 8, 3, 4), (8, 8, 2, 2), PIXELS, TO_X_DIRECT, "direct, wide padding", padding=5),
    # 17 and 33 channels: strips that the last does not fill
    case((2, 17, 9, 8), (33, 17, 3, 2), PIXELS, TO_X_PIXELS, "pixels", padding=(1, 2)),
    case((1, 9, 3, 700), (9, 9, 2, 3), PIXELS, TO_X_PIXELS, "pixels, rows in parts", padding=1),
    case((1, 3, 70, 91), (9, 3, 3, 3), PIXELS, SCATTER, "pixels, strided", stride=2, padding=1),
    case((1, 4, 31, 29), (5, 4, 3, 2), PIXELS, SCATTER, "pixels, strides", stride=(3, 2),
         dilation=(2, 3)),
    case((2, 3, 20, 31), (5, 3, 5, 4), PIXELS, SCATTER, "pixels, columns apart", stride=(2, 3),
         padding=2),
    case((2, 34, 7, 6), (36, 17, 3, 2), PIXELS, TO_X_PIXELS, "pixels, groups", groups=2, padding=1),
    case((1, 2, 7, 7), (4, 2, 2, 2), PIXELS, SCATTER, "pixels, far taps", dilation=100, padding=50),
    case((0, 3, 9, 9), (4, 3, 3, 3), PIXELS, FLIPPED, "pixels, empty batch"),
    case((0, 9, 5, 5), (8, 9, 3, 3), DIRECT, TO_X_DIRECT, "direct, empty batch"),
    case((0, 3, 5, 5), (4, 3, 3, 3), IMPLICIT, FLIPPED, "empty batch"),
    case((0, 3, 5, 5), (3, 1, 3, 3), DEPTHWISE, "dx: depthwise", "empty depthwise", groups=3),
]  # fmt: skip
# torch returns no output channels either; here the bias is left of an empty sum.
NO_CHANNELS = case((2, 0, 4, 4), (3, 0, 2, 2), IMPLICIT, SCATTER, "no input channels")


def inputs(x_shape, weight_shape, options, dtype=np.float64):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    bias = random(weight_shape[:1], dtype, seed=2)
    y = reference.conv2d_forward(x, weight, bias, **options)
    return x, weight, bias, random(y.shape, dtype, seed=3), y


def assert_gradients_close(gradients, expected, dy, **tolerance):
    dx, dweight, dbias = gradients
    assert_close(dx, expected[0], **tolerance)
    assert_close(dweight, expected[1], **tolerance)
    # the few sums may all cancel: the error scales with the sum of |dy|, not with what is left
    axes = tuple(i for i in range(dy.ndim) if i != dy.ndim - 3)
    assert_close(dbias, expected[2], scale=np.abs(dy).sum(axes).max(initial=0.0), **tolerance)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options", "forward", "to_x"), [*CASES, NO_CHANNELS]
)
def test_forward_and_backward(isa, dtype, x_shape, weight_shape, options, forward, to_x):
    x, weight, bias, dy, expected = inputs(x_shape, weight_shape, options, dtype)
    y = fastdl.conv2d(x, weight, bias, **options)
    assert_kernel(forward)
    assert y.dtype == dtype
    assert_close(y, expected)
    assert_close(
        fastdl.conv2d(x, weight, **options), reference.conv2d_forward(x, weight, **options)
    )
    gradients = fastdl.conv2d_backward(dy, x, weight, **options)
    names = {GROUPED: "grouped", "dx: depthwise": "depthwise"}
    dweight = names.get(forward) or names.get(to_x, "direct")
    assert_kernel(f"{to_x};", end=f"dweight: {dweight}")
    assert_gradients_close(gradients, reference.conv2d_backward(dy, x, weight, **options), dy)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "forward", "to_x"), CASES)
def test_against_torch(torch, x_shape, weight_shape, options, forward, to_x):
    x, weight, bias, dy, _ = inputs(x_shape, weight_shape, options)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    yt = torch.nn.functional.conv2d(*tensors, **options)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.conv2d, x, weight, bias, **options)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    assert_gradients_close(pullback(dy), [t.grad.numpy() for t in tensors], dy, factor=2)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options"),
    [
        # sums of 4608 products, and of 12 x 900 and 6 x 4096 pixels
        ((1, 512, 5, 5), (8, 512, 3, 3), {"padding": 1}),
        ((12, 4, 30, 30), (8, 4, 3, 3), {"padding": 1}),
        ((6, 3, 64, 64), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
        ((6, 6, 64, 64), (6, 3, 3, 3), {"padding": 1, "groups": 2}),
    ],
    ids=["channels", "pixels", "depthwise pixels", "grouped pixels"],
)
def test_long_sums(isa, x_shape, weight_shape, options):
    x, weight, bias, dy, expected = inputs(x_shape, weight_shape, options, np.float32)
    assert_close(fastdl.conv2d(x, weight, bias, **options), expected)
    expected = reference.conv2d_backward(dy, x, weight, **options)
    assert_gradients_close(fastdl.conv2d_backward(dy, x, weight, **options), expected, dy)


@pytest.mark.parametrize(
    ("images", "weight_shape", "kernel"),
    [(3, (40, 300, 3, 3), DIRECT), (2, (40, 300, 3, 3), TAPS), (2, (700, 300, 1, 1), DIRECT)],
    ids=str,
)
def test_error_of_direct(isa, images, weight_shape, kernel):
    # what set_precision("strict") promises, for sums of up to 2700 products
    options = {"padding": 1, "stride": 2}
    x, weight, bias, dy, expected = inputs((images, 300, 9, 9), weight_shape, options, np.float32)
    assert_close(fastdl.conv2d(x, weight, bias, **options), expected, factor=0.5)
    assert_kernel(kernel)
    dx, _, _ = fastdl.conv2d_backward(dy, x, weight, **options)
    expected = reference.conv2d_backward(dy, x, weight, **options)[0]
    assert_close(dx, expected, factor=0.5)
    assert_kernel(TO_X_DIRECT)


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-40, 1e4]
# channels of x, of the weight, groups
GROUPS = {"dense": (4, 4, 1), "direct": (8, 8, 1), "depthwise": (4, 1, 4), "grouped": (4, 2, 2)}


@pytest.mark.parametrize("where", ["x", "weight", "dy"])
@pytest.mark.parametrize("value", SPECIAL, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", GROUPS)
def test_special_values(isa, dtype, kind, stride, value, where):
    # 19 columns: a vector and a tail, or two of them and a tail; corners, edges and the inside; 20
    # at stride 2: the last lies under the last window, and where another one would begin
    channels, per_group, groups = GROUPS[kind]
    options = {"stride": stride, "padding": 1, "groups": groups}
    x_shape = (2, channels, 6, 18 + stride)
    x, weight, _, dy, _ = inputs(x_shape, (channels, per_group, 3, 3), options, dtype)
    array = {"x": x, "weight": weight, "dy": dy}[where]
    array[0, 0, 0, 0] = array[1, 0, 2, 1] = array[-1, -1, -1, -1] = value
    with np.errstate(all="ignore"):
        assert_close(
            fastdl.conv2d(x, weight, **options), reference.conv2d_forward(x, weight, **options)
        )
        gradients = fastdl.conv2d_backward(dy, x, weight, **options)
        expected = reference.conv2d_backward(dy, x, weight, **options)
    for actual, wanted in zip(gradients, expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_special_weights_of_a_pointwise_convolution(isa, dtype, stride):
    x, weight, _, dy, _ = inputs((2, 9, 7, 7), (12, 9, 1, 1), {"stride": stride}, dtype)
    weight[0, 0], weight[5, 1], weight[-1, -1] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        y = reference.conv2d_forward(x, weight, stride=stride)
        dx, *_ = reference.conv2d_backward(dy, x, weight, stride=stride)
    assert_close(fastdl.conv2d(x, weight, stride=stride), y)
    assert_close(fastdl.conv2d_backward(dy, x, weight, stride=stride)[0], dx)


@pytest.mark.parametrize("kind", GROUPS)
def test_reasons(kind):
    channels, per_group, groups = GROUPS[kind]
    x, weight = random((1, channels, 5, 5)), random((channels, per_group, 3, 3), seed=1)

    def reason(weight, **options):
        dy = fastdl.conv2d(x, weight, **options, groups=groups)
        fastdl.conv2d_backward(dy, x, weight, **options, groups=groups)
        trace = _core.last_trace()
        assert trace["kernel"].startswith(f"{SCATTER};") == bool(trace["reason"])
        fastdl.conv2d_backward(dy, x, weight, **options, groups=groups, output_mask=(0, 1, 1))
        assert _core.last_trace()["reason"] == ""
        return trace["reason"]

    assert reason(weight) == ""
    strided = "the stride is not 1, and there are few channels"
    assert reason(weight, stride=2) == (strided if kind == "dense" else "")
    if kind == "grouped":
        assert reason(weight, stride=5) == "the stride is large"
    if kind == "direct":
        assert reason(weight, stride=5) == "the stride is large or with a dilation"
    weight[-1, -1, -1, -1] = np.inf
    assert reason(weight) == "the weight holds inf or NaN"


@pytest.mark.parametrize("mask", list(np.ndindex(2, 2, 2)), ids=str)
def test_output_mask(mask):
    x, weight, _, dy, _ = inputs((2, 3, 5, 5), (4, 3, 3, 3), {})
    gradients = fastdl.conv2d_backward(dy, x, weight, output_mask=mask)
    for wanted, actual, expected in zip(
        mask, gradients, fastdl.conv2d_backward(dy, x, weight), strict=True
    ):
        assert_same_bits(actual, expected if wanted else None)


def test_vjp_without_bias():
    x, weight, _, dy, _ = inputs((2, 3, 5, 5), (4, 3, 3, 3), {})
    _, pullback = fastdl.vjp(fastdl.conv2d, x, weight)
    assert_same_bits(pullback(dy), fastdl.conv2d_backward(dy, x, weight)[:2])


@pytest.mark.parametrize("kind", GROUPS)
def test_any_layout(dtype, kind):
    channels, per_group, groups = GROUPS[kind]
    options = {"padding": 1, "groups": groups}
    x, weight, _, dy, _ = inputs((2, channels, 5, 7), (channels, per_group, 3, 3), options, dtype)
    y = fastdl.conv2d(x, weight, **options)
    gradients = fastdl.conv2d_backward(dy, x, weight, **options)
    for xs, weights, dys in zip(*(layouts(a).values() for a in (x, weight, dy)), strict=True):
        assert_same_bits(fastdl.conv2d(xs, weights, **options), y)
        assert_same_bits(fastdl.conv2d_backward(dys, xs, weights, **options), gradients)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "options"),
    [
        ((4, 24, 28, 28), (32, 24, 3, 3), {"padding": 1}),
        ((1, 48, 14, 14), (96, 48, 3, 3), {"padding": 1}),  # few pixels
        ((4, 24, 28, 28), (32, 24, 3, 3), {"stride": 2}),
        ((1, 64, 14, 14), (128, 64, 3, 3), {"stride": 2}),
        ((2, 64, 24, 24), (48, 64, 1, 1), {}),
        ((4, 256, 7, 7), (512, 256, 1, 1), {}),
        ((2, 64, 24, 25), (48, 64, 1, 1), {"stride": 2}),
        ((16, 16, 28, 28), (16, 1, 3, 3), {"groups": 16, "padding": 1}),
        ((64, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
        ((16, 16, 28, 28), (16, 4, 3, 3), {"groups": 4, "padding": 1}),
    ],
    ids=str,
)
def test_same_bits_for_any_threads(isa, dtype, x_shape, weight_shape, options):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    y, pullback = fastdl.vjp(fastdl.conv2d, x, weight, weight[:, 0, 0, 0].copy(), **options)
    dy = random(y.shape, dtype, seed=2)

    def run():
        return (fastdl.conv2d(x, weight, **options), *pullback(dy))

    assert_same_bits_for_any_threads(run)


@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "forward", "to_x"), CASES)
def test_out(isa, x_shape, weight_shape, options, forward, to_x):
    x, weight, bias, _, y = inputs(x_shape, weight_shape, options, np.float32)
    guarded = Guarded(y.shape, np.float32)
    assert fastdl.conv2d(x, weight, bias, **options, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, fastdl.conv2d(x, weight, bias, **options))


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "stride", "kernel"),
    [
        ((1, 1, 517, 517), (16, 1, 2, 2), 1, PIXELS),  # some rows begin between two vectors
        ((1, 8, 512, 512), (64, 8, 2, 2), 2, DIRECT),
    ],
    ids=["pixels", "direct"],
)
def test_large_result(isa, x_shape, weight_shape, stride, kernel):
    # 16 MB, written past the caches
    x, weight = random(x_shape, np.float32), random(weight_shape, np.float32, seed=1)
    y = fastdl.conv2d(x, weight, stride=stride)
    assert_kernel(kernel)
    assert_close(y, reference.conv2d_forward(x, weight, stride=stride))


def test_huge_options():
    # one window, whose taps after the first, or all but the middle one, read padding
    x, weight = random((1, 2, 5, 5)), random((3, 2, 3, 3), seed=1)
    far = {"dilation": 2**40, "padding": 2**40, "stride": 2**41}
    for options, x_read, weight_read in (
        ({"stride": 2**40}, x[..., :3, :3], weight),
        (far, x[..., :1, :1], weight[..., 1:2, 1:2]),
    ):
        y, pullback = fastdl.vjp(fastdl.conv2d, x, weight, **options)
        assert_close(y, reference.conv2d_forward(x_read, weight_read))
        dx, dweight = pullback(y)
        expected = reference.conv2d_backward(y, x_read, weight_read)
        assert_close(dx[..., : x_read.shape[2], : x_read.shape[3]], expected[0])
        assert np.count_nonzero(dx) == x_read.size and np.count_nonzero(dweight) == weight_read.size
