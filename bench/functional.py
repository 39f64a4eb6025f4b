"""Benches of the ops that have the same name and arguments in fastdl and torch.nn.functional."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

import fastdl
from bench import peers
from bench.harness import Bench, Call, Family

with suppress(ModuleNotFoundError):
    import ml_dtypes  # noqa: F401  teaches NumPy the name "bfloat16"

Make = Callable[[np.random.Generator], np.ndarray]
Arrays = dict[str, np.ndarray]
Options = Mapping[str, Any]
FORWARD, BOTH = "forward", "forward+backward"


def family(
    name: str,
    forward: tuple[float | None, float | None] = (None, None),
    both: tuple[float | None, float | None] = (None, None),
) -> Family:
    """A family with its targets of each direction (against torch, against the best peer)."""
    return Family(name, {FORWARD: forward, BOTH: both})


@lru_cache(maxsize=8)  # the providers of a case share the values
def normal(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> np.ndarray:
    """Normal random numbers, aligned as those that fastdl and all peers allocate."""
    count = int(np.prod(shape))
    memory = np.empty(count * dtype.itemsize + 64, np.uint8)
    start = -memory.ctypes.data % 64
    values = memory[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
    values[...] = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return values


@dataclass(frozen=True)
class Case:
    name: str
    family: Family
    arrays: Mapping[str, tuple[int, ...] | Make]  # a shape stands for normal random numbers
    options: Options = field(default_factory=dict)
    smoke: bool = False
    without: Sequence[tuple[str, str]] = ()  # (provider, direction) that would take minutes
    # What makes of a constant weight what fastdl takes in its place, before the clock starts.
    pack: Callable[[np.ndarray], Any] | None = None

    def inputs(self, dtype: np.dtype) -> Arrays:
        made = {}
        for seed, (name, value) in enumerate(self.arrays.items()):
            if isinstance(value, tuple):
                made[name] = normal(value, dtype, seed)
            else:
                array = value(np.random.default_rng(seed))
                made[name] = array.astype(dtype) if array.dtype.kind == "f" else array
        return made


@dataclass(frozen=True)
class Functional(Bench):
    """op(*arrays, **options), and its gradients for the arrays named in ``wrt``.

    ``forward`` and ``backward`` (of dy and op's own arguments) are those of the reference.
    ``torch`` and ``jax`` are the same function of their arrays. ``onnx`` takes a Graph and the
    names of the arrays in it, adds the nodes and returns the name of the result. ``jax`` and
    ``onnx`` return None for a case they lack.
    """

    op: str
    cases: Sequence[Case]
    forward: Callable[..., Any]
    backward: Callable[..., Sequence[Any]]
    wrt: Sequence[str] = ("x",)
    torch: Callable[..., Any] | None = None  # that of the same name by default
    jax: Callable[..., Any] | None = None
    onnx: Callable[..., str | None] | None = None
    images: bool = False  # x is (N, C, H, W), and torch may hold it with channels last
    suite: str = "core"
    directions: Sequence[str] = (FORWARD, BOTH)
    unverified: Sequence[str] = ()

    def make(self, provider: str, case: Case, direction: str, dtype: np.dtype) -> Call | None:
        if provider == "fastdl":
            arrays = case.inputs(dtype)
            if case.pack:
                arrays["weight"] = case.pack(arrays["weight"])
            return self._fastdl(arrays, case.options, direction)
        if provider == "numpy":
            return self._numpy(case.inputs(dtype), case.options, direction)
        if (provider, direction) in case.without:
            return None
        return peers.module_of(provider).make(provider, self, case, direction, dtype)

    def _fastdl(self, arrays: Arrays, options: Options, direction: str) -> Call:
        x, named = first(arrays, options)
        op = getattr(fastdl, self.op)
        if direction == FORWARD:
            return Call(lambda: [op(x, **named)])
        dy = gradient_of(op(x, **named), x.dtype)
        wrt = [list(arrays).index(name) for name in self.wrt]

        def run() -> Sequence[Any]:
            y, pullback = fastdl.vjp(op, x, **named)
            gradients = pullback(dy)
            return [y, *(gradients[i] for i in wrt)]

        return Call(run)

    def _numpy(self, arrays: Arrays, options: Options, direction: str) -> Call:
        x, named = first(arrays, options)
        if direction == FORWARD:
            return Call(lambda: [self.forward(x, **named)])

        def run() -> Sequence[Any]:
            y = self.forward(x, **named)
            return [y, *self.backward(gradient_of(y, x.dtype), x, **named)]

        return Call(run)


def first(arrays: Mapping[str, Any], options: Options) -> tuple[Any, dict[str, Any]]:
    """The first array, which torch calls `input`, and all other arguments, to be passed by name."""
    x, *rest = arrays
    return arrays[x], {**{name: arrays[name] for name in rest}, **options}


def gradient_of(y: Any, dtype: np.dtype) -> Any:
    """A gradient of y: random, and the same for every provider."""
    return normal(tuple(y.shape), dtype, seed=100)[()]
