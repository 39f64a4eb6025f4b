"""Times fastdl beside other libraries; every result is compared with the reference first.

    python -m bench --suite smoke
    python -m bench --suite core --op conv2d,softmax --vs torch --threads 2 --json rows.json

Prints a Markdown table. "torch/fastdl" is the time of torch divided by that of fastdl.
"""

import argparse
import importlib
import importlib.util
import json
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import bench
import fastdl
from bench.harness import Bench, Row, measure

PEERS = ("torch", "numpy")
SECONDS = {"smoke": 0.2, "core": 1.0}  # for each case, shared by the contenders


def benches() -> list[Bench]:
    names = sorted(
        m.name for m in pkgutil.iter_modules(bench.__path__) if m.name.startswith("bench_")
    )
    return [b for name in names for b in importlib.import_module(f"bench.{name}").BENCHES]


def installed(peers: Iterable[str]) -> list[str]:
    found = [peer for peer in peers if importlib.util.find_spec(peer)]
    for missing in set(peers).difference(found):
        print(f"{missing} is not installed: left out", file=sys.stderr)
    return found


def set_threads(n: int, peers: Sequence[str]) -> None:
    fastdl.set_num_threads(n)
    if "torch" in peers:
        import torch

        torch.set_num_threads(n)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
    ]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"v{fastdl.__version__}"


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def table(rows_of_cases: Sequence[Sequence[Row]], peers: Sequence[str]) -> str:
    head = ["op", "case", "direction", "dtype", "fastdl ms (p20-p80)", "GFLOP/s", "GB/s"]
    for peer in peers:
        head += [f"{peer} ms", f"{peer}/fastdl"]
    lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4)]
    for fast, *others in rows_of_cases:
        numbers = [fast.ms_median, fast.ms_p20, fast.ms_p80, fast.gflops, fast.gbps]
        for row in others:
            numbers += [row.ms_median, row.ms_median / fast.ms_median]
        median, p20, p80, *rest = map(three_digits, numbers)
        time = f"{median} ({p20}-{p80})"
        lines.append([fast.op, fast.case, fast.direction, fast.dtype, time, *rest])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    ops = [b.op for b in benches()]
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suite", choices=sorted(SECONDS), default="core")
    parser.add_argument("--op", type=names, default=ops, help=f"some of {','.join(ops)}")
    parser.add_argument("--dtype", type=names, default=["float32"], help="float32,float64")
    parser.add_argument("--threads", type=int, default=fastdl.get_num_threads())
    parser.add_argument("--vs", type=names, default=list(PEERS), help=f"some of {','.join(PEERS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one row for each time")
    options = parser.parse_args(argv)
    for given, known in ((options.op, ops), (options.vs, PEERS)):
        for name in set(given).difference(known):
            parser.error(f"unknown: {name}; choose from {', '.join(known)}")
    return options


def main() -> None:
    options = parse()
    peers = installed(options.vs)
    set_threads(options.threads, peers)
    machine: dict[str, Any] = {
        "threads": options.threads,
        "isa": fastdl.get_isa(),
        "cpu": cpu_name(),
        "commit": commit(),
    }
    todo = [
        (b, case, direction, np.dtype(dtype))
        for b in benches()
        if b.op in options.op
        for case in b.cases
        if case.smoke or options.suite == "core"
        for direction in b.directions
        for dtype in options.dtype
    ]
    progress = tqdm(todo, unit="case")
    rows = []
    for b, case, direction, dtype in progress:
        progress.set_description(f"{b.op} {case.name} {direction}")
        rows.append(
            measure(b, case, direction, dtype, ["fastdl", *peers], SECONDS[options.suite], machine)
        )
    if options.json:
        text = json.dumps([asdict(row) for case in rows for row in case], indent=1)
        options.json.write_text(f"{text}\n")
    print("{cpu}, {isa}, {threads} threads, commit {commit}\n".format(**machine))
    print(table(rows, peers))


if __name__ == "__main__":
    main()
