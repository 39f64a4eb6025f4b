"""The package as a whole: what its import costs and brings, and the tools that guard the build."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

import fastdl
from tools.check_isa_symbols import leaks

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_import_takes_at_most_60_ms_over_numpy():
    code = """
import numpy
from time import perf_counter
begin = perf_counter()
import fastdl
print(perf_counter() - begin)
"""
    assert median(float(python(code)) for _ in range(7)) <= 0.060


def test_import_brings_nothing_but_numpy():
    code = "import fastdl, sys; print(*sys.modules)"
    modules = python(code).split()
    heavy = {"torch", "matplotlib", "scipy", "ml_dtypes", "tqdm", "fastdl.reference"}
    assert not heavy.intersection(modules)


def test_all_is_sorted_and_complete():
    assert fastdl.__all__ == sorted(fastdl.__all__)
    public = {name for name, value in vars(fastdl).items() if name[0] != "_" and callable(value)}
    assert public == set(fastdl.__all__) - {"optim"}  # a module


def test_every_op_is_named_once_in_each_room():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    ops = re.search(r"set\(OPS\s+([^)]*)\)", cmake)[1].split()
    assert ops == sorted(ops)
    for op in ops:
        for room in ("csrc/kernels", "csrc/ops", "csrc/bindings"):
            assert (ROOT / room / f"{op}.cpp").is_file()


@pytest.mark.parametrize(
    ("f", "leaking"),
    [
        ("inline int f(int x) { return x; }", ["fastdl::f(int)"]),
        ("template <class T> T f(T x) { return x; }", ["int fastdl::f<int>(int)"]),
        ("namespace { int f(int x) { return x; } }", []),
        ("namespace avx2 { inline int f(int x) { return x; } } using avx2::f;", []),
        ("inline __attribute__((always_inline)) int f(int x) { return x; }", []),
    ],
    ids=["inline", "template", "anonymous", "of the ISA", "always inlined"],
)
def test_leaking_symbols_are_found(tmp_path, f, leaking):
    source, kernel = tmp_path / "kernel.cpp", tmp_path / "kernel.o"
    source.write_text(f"namespace fastdl {{ {f} }}  int g(int x) {{ return fastdl::f(x); }}")
    subprocess.run(["c++", "-c", source, "-o", kernel], check=True)
    assert leaks("avx2", kernel) == leaking
