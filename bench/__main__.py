"""Times fastdl beside other libraries; every result is compared with the reference first.

    python -m bench --suite smoke
    python -m bench --suite core --op conv2d,softmax --vs torch,onnxruntime --json rows.json
    python -m bench --device cuda --dtype bfloat16 --vs torch,torch-fused
    python -m bench --from rows.json --plot bench.png --markdown bench.md

Prints a Markdown table. Ratios are the time of the peer divided by that of fastdl.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

import fastdl
from bench import benches, machine, peers, report
from bench.harness import Bench, Case, Clock, Machine, Row, burst, measure
from bench.second_pass import SecondPass
from fastdl import _core

PROVIDERS = (*peers.LIBRARIES, "numpy")
DTYPES = ("float32", "float64", "bfloat16", "float16")
SECONDS = {"smoke": 0.05, "core": 0.2, "train": 0.4, "infer": 0.4}  # for each provider of a case
DEVICES = ("cpu", "cuda")


def names_of(known: Sequence[str]):
    """An argument that is a list of known names, or "all"."""

    def parse(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(
                    f"unknown: {name}; choose from {', '.join(known)} or all"
                )
        return names

    return parse


def parse() -> argparse.Namespace:
    ops = list(dict.fromkeys(b.op for device in DEVICES for b in benches(device)))
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--suite", choices=list(SECONDS), default="core")
    add("--device", choices=DEVICES, default="cpu")
    add("--op", type=names_of(ops), default=ops, help=f"some of {','.join(ops)}")
    add("--case", default="", help="only cases whose name contains this")
    add("--dtype", type=names_of(DTYPES), default=["float32"], help=",".join(DTYPES))
    add("--threads", type=int, default=fastdl.get_num_threads())
    add("--vs", type=names_of(PROVIDERS), default=["torch"], help=f"{','.join(PROVIDERS)} or all")
    add("--one-pass", action="store_true", help="leave out the second, without page faults")
    add("--from", type=Path, dest="rows", metavar="FILE", help="rows of --json; times nothing")
    add("--json", type=Path, metavar="FILE", help="write one row for each time")
    add("--markdown", metavar="FILE[#NAME]", help="write the tables there (between marks NAME)")
    add("--plot", type=Path, metavar="FILE", help="draw speed-ups and the roofline")
    return parser.parse_args()


def installed(providers: Sequence[str]) -> list[str]:
    for provider in providers:
        if modules := peers.missing(provider):
            print(f"{provider} left out: no {', '.join(modules)} installed", file=sys.stderr)
    return [p for p in providers if not peers.missing(p)]


def chosen(options: argparse.Namespace) -> list[tuple[Bench, Case, str, str]]:
    return [
        (bench, case, direction, dtype)
        for bench in benches(options.device)
        if bench.op in options.op
        for case in bench.cases
        if (case.smoke if options.suite == "smoke" else bench.suite == options.suite)
        and options.case in case.name
        for direction in bench.directions
        for dtype in options.dtype
    ]


def tools_of(device: str) -> tuple[Callable[[str], Machine], Clock]:
    """What measures a device's peaks, and the clock there."""
    if device == "cpu":
        return machine.measured, burst
    if _core.build_config()["cuda"] in ("not built", "emulated"):
        sys.exit("this fastdl is built without CUDA kernels: docs/cuda.md says how to get them")
    import torch

    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device")
    from bench import device as on_device

    return on_device.measured, on_device.burst


def time_all(options: argparse.Namespace, rows: list[Row]) -> list[str]:
    """Appends to rows; returns what failed."""
    providers = installed(options.vs)
    fastdl.set_num_threads(options.threads)
    peers.start(providers, options.threads)
    measured, clock = tools_of(options.device)
    measured("float32")  # the first time is slow: threads start, clocks rise
    passes_again = options.device == "cpu" and not options.one_pass
    failures = []
    with SecondPass(providers, options.threads) as second_pass:
        progress = tqdm(chosen(options), unit="case", dynamic_ncols=True)
        for bench, case, direction, dtype in progress:
            progress.set_description(f"{bench.op} {case.name} {direction}")
            arguments = {
                "direction": direction,
                "dtype": dtype,
                "seconds": SECONDS[options.suite],
                "machine": measured(dtype),
            }
            first = measure(bench, case, providers=providers, clock=clock, **arguments)
            passes = [first]
            if second_pass.providers and passes_again:
                arguments["expected"] = first.expected
                passes.append(second_pass.measure(bench.op, case.name, **arguments))
            for done in passes:
                rows += done.rows
                failures += done.failures
                for failure in done.failures:
                    progress.write(f"left out: {failure}", file=sys.stderr)
    return failures


def main() -> None:
    options = parse()
    rows: list[Row] = []
    failures = []
    try:
        if options.rows:
            rows += [Row(**row) for row in json.loads(options.rows.read_text())]
        else:
            failures = time_all(options, rows)
    finally:  # what was timed until an interruption is not lost
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        if rows:
            text = report.markdown(rows)
            print(text)
            if options.markdown:
                report.write(options.markdown, text)
            if options.plot:
                from bench.plot import draw

                draw(rows, options.plot)
    if failures:
        sys.exit("\n".join(["failed, left out:", *failures]))


if __name__ == "__main__":
    main()
