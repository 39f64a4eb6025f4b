"""python -m bench: see --help, and bench/__init__.py."""

import argparse
import json
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib import import_module

import numpy as np
from tqdm import tqdm

import bench
import fastdl
from bench.case import Case
from bench.harness import Row, run
from bench.providers import NAMES, available

SECONDS = {"smoke": 0.3, "core": 2.0}  # for each case and direction


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=bench.__doc__)
    parser.add_argument("--suite", choices=SECONDS, default="smoke")
    parser.add_argument("--op", help="only these ops, separated by commas")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, help="for all contenders; default: all cores")
    parser.add_argument("--vs", default="torch,torch-fused", help=f"peers, of {', '.join(NAMES)}")
    parser.add_argument("--json", metavar="FILE", help="write a row per case and provider")
    return parser.parse_args()


def all_cases() -> Iterator[Case]:
    for module in pkgutil.iter_modules(bench.__path__, "bench."):
        if module.name.startswith("bench.bench_"):
            yield from import_module(module.name).CASES


def table(rows: Iterable[Row]) -> str:
    """Markdown: a line per case and direction; how many times faster fastdl is than each peer."""
    grouped: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault((row.op, row.case, row.direction), {})[row.provider] = row
    peers = sorted({name for group in grouped.values() for name in group} - {"fastdl"})
    lines = [
        "| op | case | direction | ms | GFLOP/s | GB/s |" + "".join(f" {p} |" for p in peers),
        "| --- | --- | --- | ---: | ---: | ---: |" + " ---: |" * len(peers),
    ]
    for (op, case, direction), group in grouped.items():
        ours = group["fastdl"]
        rates = [f"{r:.3g}" if r is not None else "" for r in (ours.gflops, ours.gbps)]
        ratios = [
            f"{group[p].ms_median / ours.ms_median:.2f}x" if p in group else "" for p in peers
        ]
        cells = [op, case, direction, f"{ours.ms_median:.4g}", *rates, *ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    if options.threads:
        fastdl.set_num_threads(options.threads)
    peers = options.vs.split(",")
    for name in peers:
        if name not in NAMES:
            raise SystemExit(f"unknown peer {name}; choose of {', '.join(NAMES)}")
        if not available(name):
            print(f"{name} is not installed and is left out")
    ops = options.op.split(",") if options.op else None
    cases = [
        case
        for case in all_cases()
        if (ops is None or case.op in ops) and (case.smoke or options.suite != "smoke")
    ]
    if not cases:
        raise SystemExit("no case of that name")
    rows: list[Row] = []
    for case in (progress := tqdm(cases)):
        progress.set_description(f"{case.op} {case.name}")
        rows += run(case, np.dtype(options.dtype), ["fastdl", *peers], SECONDS[options.suite])
    threads, isa = rows[0].threads, rows[0].isa
    print(f"\n{rows[0].cpu}, {isa}, {threads} threads, {options.dtype}; peers: their time / ours\n")
    print(table(rows))
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
