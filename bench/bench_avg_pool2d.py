from bench.case import Case, normal

CASES = [
    Case(
        "avg_pool2d",
        f"{name} (16,64,112)",
        lambda t: (normal((16, 64, 112, 112), t),),
        kwargs,
        smoke,
    )
    for name, kwargs, smoke in [
        ("2x2s2", {"kernel_size": 2}, True),
        ("3x3s2", {"kernel_size": 3, "stride": 2, "padding": 1}, False),
        ("3x3s1", {"kernel_size": 3, "stride": 1, "padding": 1}, False),
    ]
]
