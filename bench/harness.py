"""Verify, then time the contenders in turns: the machine's mood is the same for all of them."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from platform import machine
from time import perf_counter
from typing import Any

import numpy as np

import fastdl
from bench.case import Call, Case
from bench.providers import Calls, available, calls_of

TOLERANCE = 64  # eps of the dtype, times the largest value of the oracle
MIN_SECONDS = 1e-3  # of one measurement: a shorter call is repeated within it


@dataclass(frozen=True)
class Row:
    op: str
    case: str
    direction: str
    dtype: str
    threads: int
    provider: str
    ms_p20: float
    ms_median: float
    ms_p80: float
    gflops: float | None
    gbps: float | None
    isa: str
    cpu: str
    commit: str


def run(case: Case, dtype: Any, providers: list[str], seconds: float) -> Iterator[Row]:
    """Rows of one case; seconds is the time given to each direction."""
    contenders = {name: calls_of(name, case, dtype) for name in providers if available(name)}
    verify(case, dtype, contenders)
    for direction in contenders["fastdl"]:
        calls = {name: c[direction] for name, c in contenders.items() if direction in c}
        times = measure(calls, seconds)
        contenders["fastdl"][direction]()
        trace = fastdl._core.last_trace() if direction == "forward" else None
        for name, ms in times.items():
            p20, median, p80 = np.percentile(ms, (20, 50, 80))
            yield Row(
                op=case.op,
                case=case.name,
                direction=direction,
                dtype=np.dtype(dtype).name,
                threads=fastdl.get_num_threads(),
                provider=name,
                ms_p20=p20,
                ms_median=median,
                ms_p80=p80,
                gflops=trace["flops"] / median / 1e6 if trace else None,
                gbps=trace["bytes"] / median / 1e6 if trace else None,
                isa=fastdl.get_isa(),
                cpu=cpu(),
                commit=commit(),
            )


def measure(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Milliseconds per call of each contender, measured in turns until the time is up."""
    repeats = {name: repeats_of(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + seconds
    while perf_counter() < end or len(times["fastdl"]) < 3:
        for name, call in calls.items():
            start = perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((perf_counter() - start) / repeats[name] * 1e3)
    return times


def repeats_of(call: Call) -> int:
    call()  # the first call also fills caches and pools
    start = perf_counter()
    call()
    return max(1, int(MIN_SECONDS / (perf_counter() - start)))


def verify(case: Case, dtype: Any, contenders: dict[str, Calls]) -> None:
    """fastdl's results against the reference's, its gradients against torch's in float64."""
    ours = contenders["fastdl"]
    compare(case, ours["forward"](), calls_of("numpy", case, dtype)["forward"]())
    if "forward+backward" in ours and available("torch"):
        _, gradients = ours["forward+backward"]()
        _, truth = calls_of("torch", widened(case, dtype), np.float64)["forward+backward"]()
        found = [g for g in gradients if g is not None]
        for gradient, true in zip(found, truth, strict=True):
            compare(case, gradient, true.numpy())


def widened(case: Case, dtype: Any) -> Case:
    """The case with the very numbers of dtype, in float64."""

    def args(_: Any) -> tuple[Any, ...]:
        return tuple(a.astype(np.float64) if is_float(a) else a for a in case.args(dtype))

    def is_float(a: Any) -> bool:
        return isinstance(a, np.ndarray) and a.dtype.kind == "f"

    return replace(case, args=args)


def compare(case: Case, found: Any, truth: Any) -> None:
    for a, b in zip(as_tuple(found), as_tuple(truth), strict=True):
        scale = float(np.max(np.abs(b), initial=0.0))
        error = float(np.max(np.abs(np.asarray(a, np.float64) - b), initial=0.0))
        if not error <= TOLERANCE * float(np.finfo(a.dtype).eps) * max(scale, 1.0):
            raise AssertionError(f"{case.op} {case.name}: error {error:.3g} at scale {scale:.3g}")


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@cache
def cpu() -> str:
    with open("/proc/cpuinfo") as file:
        return next((ln.split(":")[1].strip() for ln in file if "model name" in ln), machine())


@cache
def commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
