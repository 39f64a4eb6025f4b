from bench.case import Case, normal

CASES = [
    Case(
        "linear",
        f"({rows}, {n_in}) to {n_out}",
        lambda t, r=rows, i=n_in, o=n_out: (
            normal((r, i), t),
            normal((o, i), t, seed=1),
            normal(o, t, seed=2),
        ),
        smoke=smoke,
    )
    for rows, n_in, n_out, smoke in [
        (64, 400, 120, True),
        (1024, 768, 3072, False),
        (1, 768, 768, False),
    ]
]
