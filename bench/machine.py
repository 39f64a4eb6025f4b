"""What the figures were read on."""

import platform
import subprocess
from datetime import date
from functools import cache
from pathlib import Path

import fastdl
from bench.harness import Machine
from fastdl import _core


@cache
def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def commit() -> str:
    here = str(Path(__file__).parent)
    git = ["git", "-C", here, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"v{fastdl.__version__}"


def about() -> dict[str, str]:
    return {"commit": commit(), "date": date.today().isoformat()}


def measured(dtype: str) -> Machine:
    """Its peaks are those of products of this dtype.

    On a virtual machine they depend on the neighbours: we have seen 50 to 140 GB/s within minutes.
    So the bench measures them beside each case, which takes 0.1 s.
    """
    flops, bandwidth = _core.measure_peaks(dtype)
    return Machine(
        threads=fastdl.get_num_threads(),
        isa=fastdl.get_isa(),
        cpu=cpu_name(),
        **about(),
        peak_gflops=flops / 1e9,
        peak_gbps=bandwidth / 1e9,
    )
