"""Times a case again in a process whose malloc keeps large blocks, so that nobody pays page faults.

glibc reads this from the environment, once, when a process starts. The process lives as long as the
bench, and times each case right after the first pass.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from types import TracebackType
from typing import Any
from unittest import mock

import fastdl
from bench import benches, peers
from bench.harness import Measurement, measure

KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}


class SecondPass:
    """``measure`` in the other process; providers have the suffix NO_FAULTS in its rows."""

    def __init__(self, providers: Sequence[str], threads: int) -> None:
        self.providers = [p for p in providers if peers.LIBRARIES.get(p) in peers.WITH_PAGE_FAULTS]
        self._process = ProcessPoolExecutor(
            max_workers=1,
            mp_context=get_context("spawn"),
            initializer=start,
            initargs=(self.providers, threads),
        )

    def __enter__(self) -> "SecondPass":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._process.shutdown(cancel_futures=True)

    def measure(self, op: str, case: str, **arguments: Any) -> Measurement:
        with mock.patch.dict(os.environ, KEEP):  # for the process that the first call starts
            future = self._process.submit(
                measure_named, op, case, {**arguments, "providers": self.providers}
            )
        return future.result()


def start(providers: Sequence[str], threads: int) -> None:
    fastdl.set_num_threads(threads)
    peers.start(providers, threads)


def measure_named(op: str, case: str, arguments: Mapping[str, Any]) -> Measurement:
    bench, chosen = next((b, c) for b in benches() if b.op == op for c in b.cases if c.name == case)
    done = measure(bench, chosen, **arguments)
    rows = [replace(row, provider=row.provider + peers.NO_FAULTS) for row in done.rows]
    return Measurement(rows, done.failures, expected=[])
