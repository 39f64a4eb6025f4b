"""What a process runs on, and what keeps it from being faster: ``python -m fastdl doctor``."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastdl import _core
from fastdl.config import config_rows, get_isa, get_num_threads, supported_isas

_RUNTIMES = re.compile(
    r"lib(?:scipy_)?(gomp|iomp5|omp|mkl_rt|openblas|blis|dnnl|tbb)[^/]*\.so[.\d]*$"
)


def doctor() -> str:
    """A report of a process: the build, threads, runtimes loaded, PyTorch, and advice.

    Returns
    -------
    Text of several lines.

    Examples
    --------
    >>> from fastdl.doctor import doctor
    >>> print(doctor())  # doctest: +ELLIPSIS
    fastdl ...
    """
    torch = _import_torch()
    libraries = _loaded_libraries()
    bfloat16, why = _bfloat16()
    rows = config_rows()
    rows["PyTorch"] = f"{torch.__version__}, {torch.get_num_threads()} threads" if torch else "none"
    rows["bfloat16"] = f"products by {bfloat16}" + (f" ({why})" if why else "")
    rows["runtimes"] = ", ".join(sorted(libraries)) or "not known on this system"
    advice = _advice(libraries, torch.get_num_threads() if torch else None)
    lines = [f"{name:<12} {value}" for name, value in rows.items()]
    lines += [f"{'advice':<12} {line}" for line in advice or ["none: all is as it should be"]]
    return "\n".join(lines)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _bfloat16() -> tuple[str, str]:
    """The kernel that multiplies matrices of bfloat16, and why none that takes them as they are."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return "float32", "ml_dtypes, which has NumPy's bfloat16, is not installed"
    x = np.ones((16, 16), bfloat16)
    _core.matmul_forward(x, x)
    trace = _core.last_trace()
    return trace["kernel"], trace["reason"]


def _loaded_libraries() -> dict[str, set[str]]:
    """The OpenMP and BLAS runtimes in this process, by name, with the files they come from."""
    maps = Path("/proc/self/maps")
    found: dict[str, set[str]] = {}
    if maps.exists():
        for line in maps.read_text().splitlines():
            path = line.split()[-1]
            match = _RUNTIMES.search(path)
            if match:
                found.setdefault(match.group(1), set()).add(path)
    return found


def _advice(libraries: dict[str, set[str]], torch_threads: int | None) -> list[str]:
    lines = []
    for name, paths in sorted(libraries.items()):
        if name in ("gomp", "iomp5", "omp") and len(paths) > 1:
            files = ", ".join(sorted(paths))
            lines.append(f"lib{name} is loaded {len(paths)} times, each with threads: {files}")
    openmp = [name for name in ("gomp", "iomp5", "omp") if name in libraries]
    if len(openmp) > 1:
        lines.append(f"{' and '.join(openmp)} both run threads here, and may wait for each other")
    if get_isa() != supported_isas()[-1]:
        lines.append(f"{get_isa()} is forced; this CPU has {supported_isas()[-1]} (FASTDL_ISA)")
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if get_num_threads() > available:
        lines.append(f"{get_num_threads()} threads on {available} CPUs (OMP_NUM_THREADS)")
    if torch_threads is not None and torch_threads != get_num_threads():
        lines.append(f"PyTorch has {torch_threads} threads, fastdl {get_num_threads()}")
    if _core.get_buffer_pool_limit() == 0:
        lines.append("the buffer pool is off: large results cost page faults")
    return lines
