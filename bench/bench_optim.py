from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.functional import normal
from bench.harness import Bench, Call, Family
from fastdl import optim, reference

STEP = "step"
ADAM = Family("Adam", {STEP: (4.0, 1.0)})
ADAM_SMALL = Family("Adam, many small tensors", {STEP: (4.0, 4.0)})
SGD = Family("SGD", {})
TORCH = {"torch": {}, "torch-foreach": {"foreach": True}, "torch-fused": {"fused": True}}


@dataclass(frozen=True)
class Case:
    name: str
    family: Family
    tensors: int
    size: int  # of each
    smoke: bool = False

    def arrays(self, dtype: np.dtype) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Parameters and their gradients."""
        params, grads = (normal((self.tensors, self.size), dtype, seed) for seed in range(2))
        return [p.copy() for p in params], [g.copy() for g in grads]


def cases(family: Family, small: Family) -> Sequence[Case]:
    return (
        Case("500 parameters x 200 tensors", small, 200, 500, smoke=True),
        Case("180k parameters x 62 tensors", family, 62, 180_000),
        Case("1M parameters x 4 tensors", family, 4, 1 << 20, smoke=True),
        Case("25M parameters x 1 tensor", family, 1, 25_000_000),
    )


def adam_reference(params, grads) -> Callable[[], None]:
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    return lambda: reference.adam_step(params, grads, m, v, step=1, lr=1e-3)


def sgd_reference(params, grads) -> Callable[[], None]:
    momentum = [np.zeros_like(p) for p in params]
    return lambda: reference.sgd_step(params, grads, momentum, step=1, lr=1e-3, momentum=0.9)


@dataclass(frozen=True)
class Optimizer(Bench):
    """One step of all parameters."""

    op: str
    optimizer: str  # its name in fastdl.optim and torch.optim
    options: dict[str, Any]
    reference: Callable[..., Callable[[], None]]
    cases: Sequence[Case]
    directions: Sequence[str] = (STEP,)

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        params, grads = case.arrays(dtype)
        if provider in TORCH:
            return self._torch(params, grads, TORCH[provider])
        if provider == "numpy":
            step = self.reference(params, grads)
        elif provider == "fastdl":
            optimizer = getattr(optim, self.optimizer)(params, **self.options)

            def step():
                optimizer.step(grads)
        else:
            return None

        def run():
            step()
            return params

        return Call(run)

    def _torch(self, arrays, grads, variant: dict[str, bool]) -> Call:
        from bench.peers import torch as peer

        params = [peer.tensor(p).requires_grad_() for p in arrays]
        for param, grad in zip(params, grads, strict=True):
            param.grad = peer.tensor(grad)
        optimizer = getattr(peer.torch.optim, self.optimizer)(params, **variant, **self.options)

        def run():
            optimizer.step()
            return params

        return Call(run, peer.numpy_of)


BENCHES = [
    Optimizer("adam", "Adam", {"lr": 1e-3}, adam_reference, cases(ADAM, ADAM_SMALL)),
    Optimizer("sgd", "SGD", {"lr": 1e-3, "momentum": 0.9}, sgd_reference, cases(SGD, SGD)),
]
