from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import fastdl
from bench.functional import FORWARD, Case, family
from bench.harness import Bench, Call
from fastdl import reference

SEED = 0
DROPOUT = family("dropout", (25.0, 1.0))


@dataclass(frozen=True)
class Dropout(Bench):
    op: str = "dropout"
    cases: Sequence[Case] = (
        Case("1M", DROPOUT, {"x": (1 << 20,)}, {"p": 0.1}, smoke=True),
        Case("4M", DROPOUT, {"x": (1 << 22,)}, {"p": 0.1}),
    )
    directions: Sequence[str] = (FORWARD,)
    unverified: Sequence[str] = ("torch", "jax")  # whose random numbers are others

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        x, p = case.inputs(dtype)["x"], case.options["p"]
        if provider == "numpy":
            return Call(lambda: [reference.dropout_forward(x, p, (SEED, 0))])
        if provider == "torch":
            from bench.peers import torch as peer

            dropout, tensor = peer.torch.nn.functional.dropout, peer.tensor(x)
            return Call(lambda: [dropout(tensor, p)])
        if provider == "jax":
            return self._jax(x, p)
        if provider != "fastdl":
            return None

        def run():
            fastdl.manual_seed(SEED)
            return [fastdl.dropout(x, p)]

        return Call(run)

    def _jax(self, x, p):
        import jax

        @jax.jit
        def dropout(x, key):
            kept = jax.random.bernoulli(key, 1 - p, x.shape)
            return jax.numpy.where(kept, x / (1 - p), 0)

        x, key = jax.numpy.array(x), jax.random.key(SEED)
        return Call(lambda: [jax.block_until_ready(dropout(x, key))])


BENCHES = [Dropout()]
