from bench.case import Case, normal

CASES = [
    Case(
        "adaptive_max_pool2d",
        "(16,512,7) to 1",
        lambda t: (normal((16, 512, 7, 7), t), 1),
        smoke=True,
    ),
    Case("adaptive_max_pool2d", "(16,256,14) to 6", lambda t: (normal((16, 256, 14, 14), t), 6)),
]
