from bench.case import Case, normal


def conv(name: str, image: tuple[int, ...], weight: tuple[int, ...], smoke=False, **kwargs) -> Case:
    return Case(
        "conv2d",
        name,
        lambda t: (normal(image, t), normal(weight, t, seed=1), normal(weight[:1], t, seed=2)),
        kwargs,
        smoke,
    )


CASES = [
    conv("3x3 (16,64,56)->64", (16, 64, 56, 56), (64, 64, 3, 3), padding=1),
    conv("3x3 (4,64,28)->64", (4, 64, 28, 28), (64, 64, 3, 3), smoke=True, padding=1),
    conv("3x3 (16,256,14)->256", (16, 256, 14, 14), (256, 256, 3, 3), padding=1),
    conv("3x3 (1,512,7)->512", (1, 512, 7, 7), (512, 512, 3, 3), padding=1),
    conv("3x3 (1,13,17x19)->13", (1, 13, 17, 19), (13, 13, 3, 3), padding=1),
    conv("3x3s2 (16,128,56)->128", (16, 128, 56, 56), (128, 128, 3, 3), stride=2, padding=1),
    conv("7x7s2 (16,3,224)->64", (16, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv("1x1 (16,256,56)->64", (16, 256, 56, 56), (64, 256, 1, 1)),
    conv("1x1 (16,64,56)->256", (16, 64, 56, 56), (256, 64, 1, 1)),
    conv("depthwise 3x3 (16,144,56)", (16, 144, 56, 56), (144, 1, 3, 3), padding=1, groups=144),
    conv("LeNet c1 (64,1,28)->6", (64, 1, 28, 28), (6, 1, 5, 5), smoke=True, padding=2),
    conv("LeNet c2 (64,6,14)->16", (64, 6, 14, 14), (16, 6, 5, 5), smoke=True),
    conv("CIFAR (128,3,32)->32", (128, 3, 32, 32), (32, 3, 3, 3), padding=1),
]
