import numpy as np

from bench.case import Case, normal

CASES = [
    Case(
        "nll_loss",
        "(4096, 1000)",
        lambda t: (normal((4096, 1000), t), np.random.default_rng(1).integers(0, 1000, 4096)),
        smoke=True,
    )
]
