from bench.functional import Case, Functional
from fastdl import reference


def conv(name, x, weight, smoke=False, **options):
    arrays = {"x": x, "weight": weight, "bias": weight[:1]}
    return Case(f"{name} {x} to {weight[0]}", arrays, options, smoke)


CASES = [
    conv("7x7 stride 2", (16, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv("3x3", (16, 64, 56, 56), (64, 64, 3, 3), padding=1),
    conv("3x3", (16, 256, 14, 14), (256, 256, 3, 3), padding=1, smoke=True),
    conv("3x3", (1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    conv("3x3 stride 2", (16, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
    conv("1x1", (16, 256, 56, 56), (64, 256, 1, 1)),
    conv("1x1", (16, 64, 56, 56), (256, 64, 1, 1)),
    conv("depthwise 3x3", (16, 144, 56, 56), (144, 1, 3, 3), padding=1, groups=144),
    conv("depthwise 3x3", (4, 144, 28, 28), (144, 1, 3, 3), padding=1, groups=144, smoke=True),
    conv("LeNet 5x5", (64, 6, 14, 14), (16, 6, 5, 5), smoke=True),
    conv("3x3", (128, 3, 32, 32), (32, 3, 3, 3), padding=1),
]


def backward(dy, x, weight, bias, **options):
    return reference.conv2d_backward(dy, x, weight, **options)


BENCHES = [
    Functional("conv2d", CASES, reference.conv2d_forward, backward, wrt=("x", "weight", "bias"))
]
