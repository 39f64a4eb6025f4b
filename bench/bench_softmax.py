from bench.case import Case, normal

CASES = [
    Case(op, name, lambda t, s=shape, d=dim: (normal(s, t), d), smoke=smoke)
    for op in ("softmax", "log_softmax")
    for name, shape, dim, smoke in [
        ("(4096, 1000)", (4096, 1000), 1, True),
        ("(512, 32000)", (512, 32000), 1, False),
        ("(16, 19, 128, 128) dim 1", (16, 19, 128, 128), 1, False),
        ("(8, 10)", (8, 10), 1, False),
    ]
]
