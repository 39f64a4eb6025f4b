from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness import Run
from fastdl import optim, reference


@dataclass(frozen=True)
class Case:
    name: str
    tensors: int
    size: int  # of each
    smoke: bool = False

    def arrays(self, dtype: np.dtype) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Parameters and their gradients."""
        rng = np.random.default_rng(0)
        values = rng.standard_normal((2, self.tensors, self.size)).astype(dtype)
        params, grads = ([tensor.copy() for tensor in half] for half in values)
        return params, grads


CASES = (
    Case("500 parameters x 200 tensors", 200, 500, smoke=True),
    Case("180k parameters x 62 tensors", 62, 180_000),
    Case("1M parameters x 4 tensors", 4, 1 << 20, smoke=True),
    Case("25M parameters x 1 tensor", 1, 25_000_000),
)


def adam_reference(params, grads) -> Callable[[], None]:
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    return lambda: reference.adam_step(params, grads, m, v, step=1, lr=1e-3)


def sgd_reference(params, grads) -> Callable[[], None]:
    momentum = [np.zeros_like(p) for p in params]
    return lambda: reference.sgd_step(params, grads, momentum, step=1, lr=1e-3, momentum=0.9)


@dataclass(frozen=True)
class Optimizer:
    """One step of all parameters; torch's is the fused one, its fastest."""

    op: str
    optimizer: str  # its name in fastdl.optim and torch.optim
    options: dict[str, Any]
    reference: Callable[..., Callable[[], None]]
    cases: Sequence[Case] = CASES
    directions: Sequence[str] = ("step",)
    unverified: Sequence[str] = ()

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Run:
        params, grads = case.arrays(dtype)
        if provider == "torch":
            import torch

            params = [torch.tensor(p, requires_grad=True) for p in params]
            for param, grad in zip(params, grads, strict=True):
                param.grad = torch.tensor(grad)
            step = getattr(torch.optim, self.optimizer)(params, fused=True, **self.options).step
        elif provider == "numpy":
            step = self.reference(params, grads)
        else:
            optimizer = getattr(optim, self.optimizer)(params, **self.options)

            def step():
                optimizer.step(grads)

        def run():
            step()
            return [p.detach() if provider == "torch" else p for p in params]

        return run


BENCHES = [
    Optimizer("adam", "Adam", {"lr": 1e-3}, adam_reference),
    Optimizer("sgd", "SGD", {"lr": 1e-3, "momentum": 0.9}, sgd_reference),
]
