"""Benches of the ops that have the same name and arguments in fastdl and torch.nn.functional."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastdl
from bench.harness import Run

Make = Callable[[np.random.Generator], np.ndarray]
Arrays = dict[str, np.ndarray]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    name: str
    arrays: Mapping[str, tuple[int, ...] | Make]  # a shape stands for normal random numbers
    options: Options = field(default_factory=dict)
    smoke: bool = False

    def inputs(self, dtype: np.dtype) -> Arrays:
        rng = np.random.default_rng(0)
        made = {
            name: rng.standard_normal(value) if isinstance(value, tuple) else value(rng)
            for name, value in self.arrays.items()
        }
        return {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in made.items()}


@dataclass(frozen=True)
class Functional:
    """op(*arrays, **options), and its gradients for the arrays named in ``wrt``.

    ``forward`` and ``backward`` (of dy and op's own arguments) are those of the reference.
    """

    op: str
    cases: Sequence[Case]
    forward: Callable[..., Any]
    backward: Callable[..., Sequence[Any]]
    wrt: Sequence[str] = ("x",)
    directions: Sequence[str] = ("forward", "backward")
    unverified: Sequence[str] = ()

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Run:
        make = {"fastdl": self._fastdl, "torch": self._torch, "numpy": self._numpy}[provider]
        return make(case.inputs(dtype), case.options, direction)

    def _fastdl(self, arrays: Arrays, options: Options, direction: str) -> Run:
        x, named = _first(arrays, options)
        op = getattr(fastdl, self.op)
        if direction == "forward":
            return lambda: [op(x, **named)]
        y, pullback = fastdl.vjp(op, x, **named)
        dy = _gradient_of(y, y.dtype)
        wrt = [list(arrays).index(name) for name in self.wrt]

        def run() -> Sequence[Any]:
            grads = pullback(dy)
            return [grads[i] for i in wrt]

        return run

    def _torch(self, arrays: Arrays, options: Options, direction: str) -> Run:
        import torch

        backward = direction == "backward"
        tensors = {
            name: torch.tensor(value, requires_grad=backward and name in self.wrt)
            for name, value in arrays.items()
        }
        x, named = _first(tensors, options)
        op = getattr(torch.nn.functional, self.op, None) or getattr(torch, self.op)
        if not backward:
            return lambda: [op(x, **named)]
        y = op(x, **named)
        dy = torch.tensor(_gradient_of(y, x.detach().numpy().dtype))
        wrt = [tensors[name] for name in self.wrt]
        return lambda: torch.autograd.grad(y, wrt, dy, retain_graph=True)

    def _numpy(self, arrays: Arrays, options: Options, direction: str) -> Run:
        x, named = _first(arrays, options)
        if direction == "forward":
            return lambda: [self.forward(x, **named)]
        dy = _gradient_of(self.forward(x, **named), x.dtype)
        return lambda: self.backward(dy, x, **named)


def _first(arrays: Mapping[str, Any], options: Options) -> tuple[Any, dict[str, Any]]:
    """The first array, which torch calls `input`, and all other arguments, to be passed by name."""
    x, *rest = arrays
    return arrays[x], {**{name: arrays[name] for name in rest}, **options}


def _gradient_of(y: Any, dtype: Any) -> Any:
    """A gradient of y: random, and the same for every provider."""
    return np.random.default_rng(1).standard_normal(tuple(y.shape)).astype(dtype)[()]
