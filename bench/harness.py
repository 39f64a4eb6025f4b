"""Verifies a call of several libraries against the reference, then times them in turn.

A bench file holds ``BENCHES``. Each says which cases an op has and makes, for every provider, the
call to be timed. The first provider is fastdl, whose own count of FLOPs and bytes serves for all;
"numpy" is the reference, in float64.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from time import perf_counter, sleep
from typing import Any, Protocol
from unittest import mock

import numpy as np

import fastdl
from fastdl import _core

Results = Sequence[Any]

# Largest error allowed, as a share of the largest value: catches wrong results, not rounding, which
# the tests judge.
TOLERANCE = {"float32": 1e-4, "float64": 1e-12, "bfloat16": 2e-2, "float16": 4e-3}
BURST = 0.02  # seconds of a turn: short, as the noise of a shared machine lasts seconds
MIN_ROUNDS = 5  # turns of each provider, unless they take PATIENCE times what it is given
PATIENCE = 5
SETTLE = 0.01  # seconds before a turn: worker threads of the last one spin for 8 ms, then sleep
MAX_ATTEMPTS = 2
MAX_DRIFT = 0.1  # between the medians of the first and the last turns


@dataclass(frozen=True)
class Call:
    """What is timed: ``run()`` returns fresh results, ``array`` makes a NumPy array of one."""

    run: Callable[[], Results]
    array: Callable[[Any], Any] = np.asarray
    keep: Any = None  # arrays that run() reads through bare pointers
    # Given for whole networks, by PyTorch's count, and on a GPU; fastdl counts the rest.
    flops: float | None = None
    bytes: float = 0.0

    def error(self, result: Any, reference: Any, order: float) -> tuple[float, float]:
        """The norm of what the result is off by, and that of the reference."""
        reference = np.asarray(reference, np.float64)
        difference = np.asarray(self.array(result), np.float64) - reference
        return norm(difference, order), norm(reference, order)


@dataclass(frozen=True)
class Family:
    """Cases with common targets: direction -> (least time ratio to torch, to the best peer)."""

    name: str
    targets: Mapping[str, tuple[float | None, float | None]]


class Case(Protocol):
    name: str
    family: Family
    smoke: bool  # one of the few of the smoke suite


class LeftOut(Exception):
    """A contender that cannot run a case; the message says why."""


class Bench:
    op: str
    suite: str = "core"  # or "train" or "infer"
    oracle: str = "numpy"  # the provider that all others are compared with
    cases: Sequence[Any]
    directions: Sequence[str]
    unverified: Sequence[str] = ()  # providers whose results are others, as random numbers are
    # Error allowed as a share of the norm, where rounding may change single elements at will: those
    # behind a ReLU whose input is zero but for rounding.
    normwise: float | None = None

    def make(self, provider: str, case: Any, direction: str, dtype: np.dtype) -> Call | None:
        """The call of one provider, None where it has none; every provider gets the same values.

        One whose absence readers should be told about raises LeftOut.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Machine:
    threads: int
    isa: str
    cpu: str
    commit: str
    date: str
    peak_gflops: float  # of fused multiply-adds, measured
    peak_gbps: float  # of memory, measured


@dataclass(frozen=True)
class Row:
    op: str
    case: str
    family: str
    direction: str
    dtype: str
    provider: str
    ms_p20: float | None  # None, as the next five, for a provider that was left out
    ms_median: float | None
    ms_p80: float | None
    gflops: float | None
    gbps: float | None
    roofline_share: float | None  # of the peaks; FLOPs are those of the direct algorithm
    extra_mb: float | None  # taken beyond inputs and outputs; None for peers
    threads: int
    isa: str
    cpu: str
    commit: str
    date: str
    peak_gflops: float
    peak_gbps: float
    left_out: str | None = None  # why


@dataclass(frozen=True)
class Work:
    flops: float
    bytes: float
    extra_mb: float


def verify(call: Call, expected: Results, dtype: str, normwise: float | None = None) -> None:
    order, tolerance = (np.inf, TOLERANCE[dtype]) if normwise is None else (2, normwise)
    for result, reference in zip(call.run(), expected, strict=True):
        error, scale = call.error(result, reference, order)
        if not error <= tolerance * scale:
            raise AssertionError(f"error {error:.2g} for a norm of {scale:.2g}")


def norm(x: np.ndarray, order: float) -> float:
    return float(np.linalg.norm(x.ravel(), order)) if x.size else 0.0


@contextmanager
def traces() -> Iterator[list[dict[str, Any]]]:
    """Collects what each op called through ``fastdl.vjp`` did, on its way there and back."""
    collected = []
    vjp = fastdl.vjp

    def traced_vjp(op: Any, *args: Any, **kwargs: Any) -> Any:
        y, pullback = vjp(op, *args, **kwargs)
        collected.append(_core.last_trace())

        def traced_pullback(dy: Any) -> Any:
            gradients = pullback(dy)
            collected.append(_core.last_trace())
            return gradients

        return y, traced_pullback

    with mock.patch.object(fastdl, "vjp", traced_vjp):
        yield collected


def work_of(call: Call) -> Work:
    """What a call of fastdl does, by its own count, and the memory it takes from the pool.

    All scratch memory comes from the buffer pool and returns to it. So what lies in a pool that was
    empty before the call is what the call took, its results apart, which are still held.
    """
    limit = fastdl.get_buffer_pool_limit()
    fastdl.set_buffer_pool_limit(0)  # empties it
    fastdl.set_buffer_pool_limit(limit)
    with traces() as collected:
        results = call.run()
    extra = _core.buffer_pool_size()
    del results
    if call.flops is not None:
        return Work(call.flops, call.bytes, extra / 1e6)
    parts = collected or [_core.last_trace()]
    return Work(sum(t["flops"] for t in parts), sum(t["bytes"] for t in parts), extra / 1e6)


Clock = Callable[[Callable[[], Results], float], list[float]]


def burst(run: Callable[[], Results], seconds: float) -> list[float]:
    """Seconds of each run, for some time; the first, which wakes threads and caches, is dropped."""
    end = perf_counter() + seconds
    times = []
    while not times or perf_counter() < end:
        begin = perf_counter()
        run()
        times.append(perf_counter() - begin)
    return times[1:] or times


def time_in_turn(
    runs: Mapping[str, Callable[[], Results]], seconds: float, clock: Clock = burst
) -> dict[str, np.ndarray]:
    """Seconds of the runs of each provider, in rounds, so that all meet the same disturbances.

    Each provider gets the same share of the time, and MIN_ROUNDS turns if it is not much slower
    than that.
    """
    times: dict[str, list[float]] = {provider: [] for provider in runs}
    patience = max(PATIENCE * seconds, SETTLE)
    for turn in count():
        enough = patience if turn < MIN_ROUNDS else seconds
        pending = [provider for provider in runs if sum(times[provider]) < enough]
        if not pending:
            break
        for provider in pending:
            sleep(SETTLE)
            times[provider] += clock(runs[provider], min(BURST, seconds))
    return {provider: np.array(t) for provider, t in times.items()}


def drift(times: np.ndarray) -> float:
    if len(times) < 2:
        return 0.0
    first, second = (float(np.median(half)) for half in np.array_split(times, 2))
    return abs(first - second) / min(first, second)


def time_steadily(
    runs: Mapping[str, Callable[[], Results]], seconds: float, clock: Clock
) -> dict[str, np.ndarray]:
    """``time_in_turn``, again beside fastdl for those whose halves disagree."""
    times = time_in_turn(runs, seconds, clock)
    for _ in range(MAX_ATTEMPTS - 1):
        unsteady = [provider for provider, t in times.items() if drift(t) > MAX_DRIFT]
        if not unsteady:
            break
        again = {p: runs[p] for p in dict.fromkeys(["fastdl", *unsteady])}
        times |= time_in_turn(again, seconds, clock)
    return times


@dataclass
class Measurement:
    """The rows of one case, and what went wrong."""

    rows: list[Row]
    failures: list[str]
    expected: Results


def measure(
    bench: Bench,
    case: Case,
    direction: str,
    dtype: str,
    providers: Sequence[str],  # besides fastdl
    seconds: float,  # for each provider
    machine: Machine,
    expected: Results | None = None,  # computed by the oracle when not given
    clock: Clock = burst,
) -> Measurement:
    """One row for each provider that has the case, fastdl first; none if fastdl errs."""
    name = f"{bench.op} {case.name} {direction} {dtype}"
    times: dict[str, np.ndarray] = {}
    failures = []
    if expected is None:
        oracle = bench.make(bench.oracle, case, direction, np.dtype(dtype))
        begin = perf_counter()
        expected = oracle.run()
        times[bench.oracle] = np.array([perf_counter() - begin])
    calls = {}
    left_out = {}
    for provider in ("fastdl", *(p for p in providers if p != "numpy")):
        try:
            call = bench.make(provider, case, direction, np.dtype(dtype))
            if call is None:
                continue
            if provider not in bench.unverified:
                verify(call, expected, dtype, bench.normwise)
            calls[provider] = call
        except LeftOut as reason:
            left_out[provider] = str(reason)
        except Exception as error:  # one that fails must not cost the figures of all others
            left_out[provider] = type(error).__name__
            failures.append(f"{provider} {name}: {type(error).__name__}: {error}")
    if "fastdl" not in calls:
        return Measurement([], failures, expected)
    work = work_of(calls["fastdl"])
    times |= time_steadily({p: call.run for p, call in calls.items()}, seconds, clock)
    limit = max(work.flops / machine.peak_gflops, work.bytes / machine.peak_gbps) / 1e9
    rows = []
    for provider in ("fastdl", *providers):
        about = {
            "op": bench.op, "case": case.name, "family": case.family.name,
            "direction": direction, "dtype": dtype, "provider": provider, **vars(machine),
        }  # fmt: skip
        if provider in times:
            p20, median, p80 = (float(q) for q in np.percentile(times[provider], (20, 50, 80)))
            rows.append(
                Row(
                    ms_p20=p20 * 1e3, ms_median=median * 1e3, ms_p80=p80 * 1e3,
                    gflops=work.flops / median / 1e9, gbps=work.bytes / median / 1e9,
                    roofline_share=limit / median,
                    extra_mb=work.extra_mb if provider == "fastdl" else None, **about,
                )
            )  # fmt: skip
        elif provider in left_out:
            rows.append(
                Row(
                    ms_p20=None, ms_median=None, ms_p80=None, gflops=None, gbps=None,
                    roofline_share=None, extra_mb=None, left_out=left_out[provider], **about,
                )
            )  # fmt: skip
    return Measurement(rows, failures, expected)
