from bench.case import Case, normal


def layer_norm(rows: int, n: int, smoke: bool = False) -> Case:
    return Case(
        "layer_norm",
        f"({rows}, {n})",
        lambda t: (normal((rows, n), t), (n,), normal(n, t, seed=1), normal(n, t, seed=2)),
        smoke=smoke,
    )


CASES = [layer_norm(4096, 768, smoke=True), layer_norm(197, 768), layer_norm(64, 16384)]
