"""Compiles cuda/*.cu for every target, and says what the kernels take of a multiprocessor.

Prints a line per file and target: kernels, the most registers of one, bytes spilled to memory.
Exits with 1 if nvcc warns, or if one of the kernels that speed depends on spills.
"""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

TARGETS = ("80", "90a", "100")
HOT = ("row_kernel", "adam", "sgd", "pool", "grouped", "fma_gemm", "mma_gather")
ROOT = Path(__file__).parent.parent
FLAGS = "-std=c++20 -O3 -DFASTDL_CUDA --expt-relaxed-constexpr --diag-suppress=177 -Xptxas -v"


def compile_file(source: Path, target: str) -> tuple[str, list[str]]:
    """Its line of the table, and what is wrong."""
    arch = f"-gencode=arch=compute_{target},code=sm_{target}"
    command = ["nvcc", *FLAGS.split(), arch, f"-I{ROOT}", f"-I{ROOT / 'csrc'}"]
    run = subprocess.run(
        [*command, "-c", str(source), "-o", "/dev/null"], capture_output=True, text=True
    )
    name = f"{source.name} sm_{target}"
    if run.returncode != 0:
        return name, [f"{name}: {run.stderr}"]
    problems = [f"{name}: {line}" for line in run.stderr.splitlines() if "warning" in line.lower()]
    # Of each kernel: its name, then spills and registers.
    kernels = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers",
        run.stderr,
        re.DOTALL,
    )
    for kernel, spilled, _ in kernels:
        if int(spilled) and any(hot in kernel for hot in HOT):
            problems.append(f"{name}: {kernel} spills {spilled} bytes")
    registers = max((int(used) for *_, used in kernels), default=0)
    spills = sum(int(spilled) for _, spilled, _ in kernels)
    return f"{name:<48} {len(kernels):4} {registers:10} {spills:8}", problems


def main() -> int:
    sources = sorted((ROOT / "cuda").glob("*.cu"))
    print(f"{'file, target':<48} {'kernels':>4} {'registers':>8} {'spilled':>8}")
    problems: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        for line, wrong in pool.map(lambda job: compile_file(*job), product(sources, TARGETS)):
            print(line, flush=True)
            problems += wrong
    print("\n".join(problems), file=sys.stderr)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
