from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import fastdl
from bench.functional import Case
from bench.harness import Run
from fastdl import reference

SEED = 0


@dataclass(frozen=True)
class Dropout:
    op: str = "dropout"
    cases: Sequence[Case] = (
        Case("1M", {"x": (1 << 20,)}, {"p": 0.1}, smoke=True),
        Case("4M", {"x": (1 << 22,)}, {"p": 0.1}),
    )
    directions: Sequence[str] = ("forward",)
    unverified: Sequence[str] = ("torch",)  # whose random numbers are others

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Run:
        x, p = case.inputs(dtype)["x"], case.options["p"]
        if provider == "numpy":
            return lambda: [reference.dropout_forward(x, p, (SEED, 0))]
        if provider == "torch":
            import torch

            tensor = torch.tensor(x)
            return lambda: [torch.nn.functional.dropout(tensor, p)]

        def run():
            fastdl.manual_seed(SEED)
            return [fastdl.dropout(x, p)]

        return run


BENCHES = [Dropout()]
