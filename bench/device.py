"""Benches on a GPU: tensors of PyTorch, the device's clock, the device's peaks.

The oracle is PyTorch's own op in float64, on the device: NumPy would take minutes for arrays of
half a gigabyte. fastdl's ops are compared with their NumPy references by the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastdl.torch
from bench.bench_optim import STEP, TORCH
from bench.functional import BOTH, FORWARD, first
from bench.harness import Bench, Call, Family, Machine, Results
from bench.machine import about

ORACLE = "torch-float64"
Make = Callable[[torch.Generator], Tensor]
# Bytes that an op must move at least, forward and there and back, by those of x and of its result.
Traffic = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class DeviceCall(Call):
    """Results stay on the device, also to be compared."""

    def error(self, result: Tensor, reference: Tensor, order: float) -> tuple[float, float]:
        difference = result.detach().double() - reference
        error, scale = (
            torch.linalg.vector_norm(x, order).item() if x.numel() else 0.0
            for x in (difference, reference)
        )
        return error, scale


@dataclass(frozen=True)
class DeviceCase:
    name: str
    family: Family
    arrays: Mapping[str, tuple[int, ...] | Make]  # a shape stands for normal random numbers
    options: Mapping[str, Any] = field(default_factory=dict)
    smoke: bool = False
    flops: float = 0.0  # of the forward direction, if they bind it
    channels_last: bool = False

    def tensors(self, where: str, dtype: torch.dtype) -> dict[str, Tensor]:
        made = {}
        for seed, (name, value) in enumerate(self.arrays.items()):
            generator = torch.Generator(where).manual_seed(seed)
            if isinstance(value, tuple):
                value = _normal(value)
            x = value(generator)
            x = x.to(dtype) if x.is_floating_point() else x
            if self.channels_last and x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            made[name] = x
        return made


def _normal(shape: tuple[int, ...]) -> Make:
    return lambda generator: torch.randn(shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class DeviceFunctional(Bench):
    """A function that has the same name and arguments in fastdl.torch and torch.nn.functional."""

    op: str
    cases: Sequence[DeviceCase]
    traffic: Traffic
    wrt: Sequence[str] = ("x",)
    backward_flops: float = 2.0  # times those of the forward direction
    peers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    random: bool = False
    normwise: float | None = None
    suite: str = "core"
    oracle: str = ORACLE
    directions: Sequence[str] = (FORWARD, BOTH)
    where: str = "cuda"

    @property
    def unverified(self) -> Sequence[str]:
        return ("fastdl", "torch") if self.random else ()

    def make(self, provider: str, case: DeviceCase, direction: str, dtype: np.dtype) -> Call | None:
        namesake = getattr(torch.nn.functional, self.op, None) or getattr(torch, self.op)
        functions = {
            "fastdl": getattr(fastdl.torch, self.op),
            "torch": namesake,
            ORACLE: namesake,
            **self.peers,
        }
        if provider not in functions:
            return None
        op = functions[provider]
        tensors = case.tensors(self.where, getattr(torch, dtype.name))
        if provider == ORACLE:
            tensors = {k: x.double() if x.is_floating_point() else x for k, x in tensors.items()}
        x, named = first(tensors, case.options)

        def forward() -> Any:
            return op(x, **named)

        with torch.no_grad():
            y = forward()
        moved = self.traffic(x.nbytes, y.nbytes)
        if direction == FORWARD:
            plain = torch.no_grad()(forward)
            return DeviceCall(lambda: [plain()], flops=case.flops, bytes=moved[0])
        generator = torch.Generator(self.where).manual_seed(100)
        dy = torch.randn(y.shape, generator=generator, device=self.where)
        dy = torch.empty_like(y).copy_(dy.to(getattr(torch, dtype.name)))  # as y lies
        del y
        wrt = [tensors[name].requires_grad_() for name in self.wrt]

        def both() -> Results:
            y = forward()
            return [y, *torch.autograd.grad(y, wrt, dy)]

        flops = case.flops * (1 + self.backward_flops)
        return DeviceCall(both, flops=flops, bytes=moved[1])


GPT_2 = [(50257, 768), (1024, 768)] + 12 * [
    (768,), (768,), (768, 2304), (2304,), (768, 768), (768,),
    (768,), (768,), (768, 3072), (3072,), (3072, 768), (768,),
]  # fmt: skip


def resnet_50() -> list[tuple[int, ...]]:
    from bench.models import resnet50

    return [tuple(p.shape) for p in resnet50().parameters()]


@dataclass(frozen=True)
class OptimizerCase:
    name: str
    shapes: Callable[[], list[tuple[int, ...]]]
    family: Family
    smoke: bool = False


def optimizer_cases(family: Family) -> list[OptimizerCase]:
    return [
        OptimizerCase("ResNet-50", resnet_50, family),
        OptimizerCase("GPT-2", lambda: GPT_2, family),
        OptimizerCase("three tensors", lambda: [(3,), (5, 7), (1000,)], family, smoke=True),
    ]


@dataclass(frozen=True)
class DeviceOptimizer(Bench):
    """One step of all parameters."""

    op: str
    optimizer: str  # its name in fastdl.torch.optim and torch.optim
    passes: int  # arrays that are read or written
    options: Mapping[str, Any]
    cases: Sequence[OptimizerCase]
    oracle: str = ORACLE
    directions: Sequence[str] = (STEP,)
    where: str = "cuda"

    def make(
        self, provider: str, case: OptimizerCase, direction: str, dtype: np.dtype
    ) -> Call | None:
        given = kind = getattr(torch, dtype.name)
        if provider == "fastdl":
            make: Any = partial(getattr(fastdl.torch.optim, self.optimizer), fused=True)
        elif provider in TORCH:
            make = partial(getattr(torch.optim, self.optimizer), **TORCH[provider])
        elif provider == ORACLE:
            make, kind = getattr(torch.optim, self.optimizer), torch.float64
        else:
            return None
        params = []
        generator = torch.Generator(self.where).manual_seed(0)
        for shape in case.shapes():
            param, grad = (
                torch.randn(shape, generator=generator, device=self.where).to(given).to(kind)
                for _ in range(2)
            )
            param.grad = grad
            params.append(param)
        optimizer = make(params, **self.options)

        def run() -> Results:
            optimizer.step()
            return params

        moved = self.passes * sum(param.nbytes for param in params)
        return DeviceCall(run, flops=0.0, bytes=moved)


def burst(run: Callable[[], Results], seconds: float) -> list[float]:
    """Seconds of each run by the device's clock; the first is dropped."""
    end = perf_counter() + seconds
    events = [torch.cuda.Event(enable_timing=True)]
    events[0].record()
    while len(events) < 3 or perf_counter() < end:
        run()
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
        if len(events) % 8 == 0:  # or the host runs far ahead
            events[-1].synchronize()
    events[-1].synchronize()
    times = [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]
    return times[1:]


@cache
def measured(dtype: str) -> Machine:
    """Its peaks are those of PyTorch: a copy of 1 GB, a product of two matrices of 8192^2."""
    kind = getattr(torch, dtype)
    a, b = (torch.randn((8192, 8192), device="cuda").to(kind) for _ in range(2))
    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    copy = float(np.median(burst(lambda: [y.copy_(x)], 0.2)))
    product = float(np.median(burst(lambda: [torch.mm(a, b)], 0.5)))
    major, minor = torch.cuda.get_device_capability()
    return Machine(
        **about(),
        threads=1,
        isa=f"sm_{major}{minor}",
        cpu=torch.cuda.get_device_name(),
        peak_gflops=2 * 8192**3 / product / 1e9,
        peak_gbps=2 * x.nbytes / copy / 1e9,
    )
