"""What a call does on this machine: its kernel, its cost, and how near it comes to the limits."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

from fastdl import _core
from fastdl.config import (
    get_isa,
    get_num_threads,
    get_precision,
    get_rng_state,
    set_rng_state,
)

_SECONDS = 0.05  # the call is repeated for about this long, and the fastest run counts


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; prints as a short table."""

    op: str
    kernel: str  # the kernel chosen, with its tiling where it has one
    reason: str  # why a faster kernel was refused; "" if none was
    isa: str
    threads: int
    precision: str
    flops: float
    bytes: float  # what must be read and written at least once
    seconds: float  # of the fastest run
    limit: float  # seconds the roofline allows: max(flops / peak, bytes / bandwidth)

    @property
    def roofline_share(self) -> float:
        """Share of what this machine can do at most; above 1 when the data lies in a cache."""
        return self.limit / self.seconds

    def __str__(self) -> str:
        rows = {
            "kernel": self.kernel,
            "not faster because": self.reason,
            "machine": f"{self.isa}, {self.threads} threads, precision {self.precision}",
            "FLOPs": f"{self.flops:.4g}, {self.flops / self.seconds / 1e9:.4g} GFLOP/s",
            "bytes": f"{self.bytes:.4g}, {self.bytes / self.seconds / 1e9:.4g} GB/s",
            "time": f"{self.seconds * 1e3:.4g} ms, roofline {self.limit * 1e3:.4g} ms"
            f" ({self.roofline_share:.0%})",
        }
        return "\n".join([self.op, *(f"  {k:<19}{v}" for k, v in rows.items() if v)])


def explain(op: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Run ``op(*args, **kwargs)`` a few times on copies of its arrays and tell what it did.

    The limit is that of the roofline model (Williams, Waterman, Patterson 2009): no run is faster
    than its FLOPs at the peak rate, or its unavoidable bytes at the memory's bandwidth, both
    measured once.

    Parameters
    ----------
    op : a function of fastdl, or its name.
    *args, **kwargs : its arguments. Nothing of the caller's changes, not even by in-place ops, nor
        does the random state.

    Returns
    -------
    An :class:`Explanation`: the kernel and why no faster one, ISA, threads, FLOPs, bytes, seconds
    and the share of the roofline.

    Raises
    ------
    Whatever the call itself raises; ValueError for a name that is no function of fastdl.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> fastdl.explain("softmax", np.zeros((8, 100), np.float32), dim=1).kernel
    'rows, lanes along dim'
    """
    import fastdl

    function = getattr(fastdl, op, None) if isinstance(op, str) else op
    if not callable(function):
        raise ValueError(f"[explain] fastdl has no function {op!r}")
    args, kwargs = copy.deepcopy((args, kwargs))
    rng_state = get_rng_state()
    try:
        function(*args, **kwargs)
        trace = _core.last_trace()
        seconds = _fastest(lambda: function(*args, **kwargs))
    finally:
        set_rng_state(rng_state)
    flops_per_second, bytes_per_second = _peaks(get_isa(), get_num_threads())
    return Explanation(
        op=function.__name__,
        kernel=trace["kernel"],
        reason=trace["reason"],
        isa=get_isa(),
        threads=get_num_threads(),
        precision=get_precision(),
        flops=trace["flops"],
        bytes=trace["bytes"],
        seconds=seconds,
        limit=max(trace["flops"] / flops_per_second, trace["bytes"] / bytes_per_second),
    )


def _fastest(run: Callable[[], Any]) -> float:
    best, end = float("inf"), perf_counter() + _SECONDS
    while (start := perf_counter()) < end:
        run()
        best = min(best, perf_counter() - start)
    return best


@cache
def _peaks(isa: str, threads: int) -> tuple[float, float]:
    return _core.measure_peaks("float32")
