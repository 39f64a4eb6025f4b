from bench.functional import BOTH, Case, Functional, family
from fastdl import reference

SQUARE = family("conv 3x3 stride 1, N >= 8", (2.3, 2.0), (2.0, 1.7))
POINTWISE = family("conv 1x1", (2.0, 1.08), (2.5, 1.2))
OTHER = family("conv: stem, stride 2, dilated, 5x5, N = 1, small", (1.2, 1.0), (1.5, 1.3))
GROUPED = family("conv: depthwise and grouped", (2.0, 1.2), (3.0, 1.5))


def conv(family, name, x, weight, smoke=False, **options):
    arrays = {"x": x, "weight": weight, "bias": weight[:1]}
    # XLA takes 20 s for a gradient in 32 groups; torch takes 60 ms.
    without = [("jax", BOTH)] if family is GROUPED else []
    return Case(f"{name} {x} to {weight[0]}", family, arrays, options, smoke, without)


def depthwise(x, kernel=3, smoke=False, **options):
    C = x[1]
    name = f"depthwise {kernel}x{kernel}" + (" stride 2" if options else "")
    weight = (C, 1, kernel, kernel)
    return conv(GROUPED, name, x, weight, smoke, padding=kernel // 2, groups=C, **options)


CASES = [
    # ResNet-50 and VGG-16
    conv(SQUARE, "3x3", (16, 64, 56, 56), (64, 64, 3, 3), padding=1),
    conv(SQUARE, "3x3", (16, 128, 28, 28), (128, 128, 3, 3), padding=1),
    conv(SQUARE, "3x3", (16, 256, 14, 14), (256, 256, 3, 3), padding=1, smoke=True),
    conv(SQUARE, "3x3", (16, 512, 7, 7), (512, 512, 3, 3), padding=1),
    conv(SQUARE, "3x3", (8, 64, 112, 112), (128, 64, 3, 3), padding=1),
    conv(SQUARE, "3x3", (8, 512, 14, 14), (512, 512, 3, 3), padding=1),
    conv(SQUARE, "3x3", (8, 13, 17, 19), (13, 13, 3, 3), padding=1),  # nothing divides by the lanes
    conv(POINTWISE, "1x1", (16, 256, 56, 56), (64, 256, 1, 1)),
    conv(POINTWISE, "1x1", (16, 64, 56, 56), (256, 64, 1, 1)),
    conv(POINTWISE, "1x1", (16, 512, 28, 28), (128, 512, 1, 1)),
    conv(POINTWISE, "1x1", (16, 256, 14, 14), (1024, 256, 1, 1)),
    conv(POINTWISE, "1x1", (16, 2048, 7, 7), (512, 2048, 1, 1)),
    conv(POINTWISE, "1x1 stride 2", (16, 256, 56, 56), (512, 256, 1, 1), stride=2),
    conv(POINTWISE, "1x1", (8, 13, 17, 19), (29, 13, 1, 1)),
    conv(OTHER, "7x7 stride 2", (16, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv(OTHER, "3x3 stride 2", (16, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
    conv(OTHER, "7x7 stride 2", (1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv(OTHER, "3x3", (1, 64, 56, 56), (64, 64, 3, 3), padding=1),
    conv(OTHER, "3x3", (1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    conv(OTHER, "3x3 stride 2", (1, 256, 14, 14), (512, 256, 3, 3), stride=2, padding=1),
    conv(OTHER, "1x1", (1, 256, 56, 56), (64, 256, 1, 1)),
    # small networks, and what they rarely have
    conv(OTHER, "LeNet 5x5", (64, 1, 28, 28), (6, 1, 5, 5), padding=2),
    conv(OTHER, "LeNet 5x5", (64, 6, 14, 14), (16, 6, 5, 5), smoke=True),
    conv(OTHER, "3x3", (128, 3, 32, 32), (32, 3, 3, 3), padding=1),
    conv(OTHER, "3x3", (2, 13, 17, 19), (26, 13, 3, 3), padding=1),
    conv(OTHER, "3x3 stride 2", (4, 13, 17, 19), (24, 13, 3, 3), stride=2, padding=1),
    conv(OTHER, "3x3 dilation 4", (4, 64, 33, 33), (64, 64, 3, 3), padding=4, dilation=4),
    conv(OTHER, "5x5", (8, 48, 27, 27), (128, 48, 5, 5), padding=2),
    # MobileNet, EfficientNet, ResNeXt
    conv(OTHER, "3x3 stride 2", (16, 3, 224, 224), (32, 3, 3, 3), stride=2, padding=1),
    depthwise((16, 144, 56, 56)),
    depthwise((16, 144, 56, 56), stride=2),
    depthwise((16, 512, 14, 14)),
    depthwise((16, 240, 28, 28), kernel=5),
    depthwise((4, 144, 28, 28), smoke=True),
    depthwise((1, 144, 56, 56)),
    depthwise((8, 13, 17, 19)),
    conv(GROUPED, "3x3 in 32 groups", (16, 128, 56, 56), (128, 4, 3, 3), padding=1, groups=32),
]


def backward(dy, x, weight, bias=None, **options):
    return reference.conv2d_backward(dy, x, weight, **options)


def jax(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    from jax import lax

    y = lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        feature_group_count=groups,
    )
    return y + bias[:, None, None]


def onnx(graph, x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    return graph.node(
        "Conv",
        x,
        weight,
        bias,
        strides=[stride] * 2,
        pads=[padding] * 4,
        dilations=[dilation] * 2,
        group=groups,
    )


BENCHES = [
    Functional(
        "conv2d",
        CASES,
        reference.conv2d_forward,
        backward,
        wrt=("x", "weight", "bias"),
        jax=jax,
        onnx=onnx,
        images=True,
    )
]
