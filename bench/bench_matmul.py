from bench.case import Case, normal

CASES = [
    Case(
        "matmul",
        f"{m} x {k} x {n}",
        lambda t, m=m, k=k, n=n: (normal((m, k), t), normal((k, n), t, seed=1)),
        smoke=smoke,
    )
    for m, k, n, smoke in [
        (512, 512, 512, True),
        (2048, 2048, 2048, False),
        (128, 768, 768, True),
        (1, 4096, 4096, False),
        (1023, 197, 13, False),
    ]
]
