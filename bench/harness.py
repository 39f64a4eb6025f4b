"""Verifies a call of several libraries against the reference, then times them in turn.

A bench file holds ``BENCHES``. Each says which cases an op has and, for every provider, makes the
call to be timed: a function without arguments that returns its results. The first provider is
fastdl, whose own count of FLOPs and bytes serves for all; "numpy" is the reference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from fastdl import _core

Run = Callable[[], Sequence[Any]]

# Largest error allowed, as a share of the largest value: catches wrong results, not rounding, which
# the tests judge.
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
MIN_RUNS = 3
MAX_ATTEMPTS = 3
MAX_DRIFT = 0.1  # between the medians of the two halves of a run


class Case(Protocol):
    name: str
    smoke: bool  # one of the few of the smoke suite


class Bench(Protocol):
    op: str
    cases: Sequence[Any]
    directions: Sequence[str]
    unverified: Sequence[str]  # providers whose results are others, as random numbers are

    def make(self, provider: str, case: Any, direction: str, dtype: np.dtype) -> Run:
        """The call of one provider; every provider gets the same values."""


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
    gflops: float
    gbps: float
    isa: str
    cpu: str
    commit: str


def verify(name: str, results: Sequence[Any], expected: Sequence[Any], dtype: np.dtype) -> None:
    for result, reference in zip(results, expected, strict=True):
        reference = np.asarray(reference, np.float64)
        error = np.max(np.abs(np.asarray(result, np.float64) - reference), initial=0.0)
        scale = np.max(np.abs(reference), initial=0.0)
        if not error <= TOLERANCE[dtype] * scale:
            raise AssertionError(f"{name}: error {error:.2g} for values up to {scale:.2g}")


def time_in_turn(runs: dict[str, Run], seconds: float) -> dict[str, np.ndarray]:
    """Seconds of every run of each provider, in rounds, so that all meet the same disturbances.

    Each provider gets the same share of the time, and at least MIN_RUNS runs.
    """
    times: dict[str, list[float]] = {provider: [] for provider in runs}
    left = dict.fromkeys(runs, seconds / len(runs))
    while pending := [p for p in runs if len(times[p]) < MIN_RUNS or left[p] > 0]:
        for provider in pending:
            begin = perf_counter()
            runs[provider]()
            elapsed = perf_counter() - begin
            times[provider].append(elapsed)
            left[provider] -= elapsed
    return {provider: np.array(t) for provider, t in times.items()}


def drift(times: np.ndarray) -> float:
    first, second = (float(np.median(half)) for half in np.array_split(times, 2))
    return abs(first - second) / min(first, second)


def measure(
    bench: Bench,
    case: Case,
    direction: str,
    dtype: np.dtype,
    providers: Sequence[str],
    seconds: float,
    machine: dict[str, Any],
) -> list[Row]:
    """One row for each provider, fastdl first."""
    name = f"{bench.op} {case.name} {direction} {dtype.name}"
    runs = {p: bench.make(p, case, direction, dtype) for p in providers}
    expected = bench.make("numpy", case, direction, dtype)()
    for provider, run in runs.items():
        if provider not in bench.unverified:
            verify(f"{provider} {name}", run(), expected, dtype)
    runs["fastdl"]()
    trace = _core.last_trace()
    for _ in range(MAX_ATTEMPTS):
        times = time_in_turn(runs, seconds)
        if drift(times["fastdl"]) <= MAX_DRIFT:
            break
    rows = []
    for provider, t in times.items():
        p20, median, p80 = (float(q) for q in np.percentile(t, (20, 50, 80)))
        rows.append(
            Row(
                op=bench.op, case=case.name, direction=direction, dtype=dtype.name,
                provider=provider, ms_p20=p20 * 1e3, ms_median=median * 1e3, ms_p80=p80 * 1e3,
                gflops=trace["flops"] / median / 1e9, gbps=trace["bytes"] / median / 1e9, **machine,
            )
        )  # fmt: skip
    return rows
