"""What concerns the whole process: threads, fork, memory, environment."""

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

import fastdl
from tests.testing import assert_same_bits, num_threads, random


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_num_threads():
    with num_threads(3):
        assert fastdl.get_num_threads() == 3
    for n in (0, -1):
        with pytest.raises(ValueError, match="expected at least 1 thread"):
            fastdl.set_num_threads(n)


def test_threadpoolctl_sees_and_controls_our_threads():
    with num_threads(2):
        openmp = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "openmp"]
        assert [lib["num_threads"] for lib in openmp] == [2]  # one runtime, and it is ours
        with threadpoolctl.threadpool_limits(1, user_api="openmp"):
            assert fastdl.get_num_threads() == 1
        assert fastdl.get_num_threads() == 2


def test_torch_and_fastdl_share_one_openmp_runtime(torch):
    code = """
import sys
for name in sys.argv[1:]: __import__(name)
import fastdl, torch
torch.set_num_threads(3)
assert fastdl.get_num_threads() == torch.get_num_threads() == 3
fastdl.set_num_threads(2)
assert torch.get_num_threads() == 2
paths = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert len(paths) == 1, paths
"""
    for order in (("torch", "fastdl"), ("fastdl", "torch")):
        done = subprocess.run([sys.executable, "-c", code, *order], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_child_of_fork_runs_single_threaded():
    code = """
import os, warnings, numpy as np, fastdl
warnings.simplefilter("ignore")
fastdl.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((3000, 100))
y = fastdl.softmax(x, 1)
child = os.fork()
if child == 0:
    same = np.array_equal(fastdl.softmax(x, 1), y) and fastdl.get_num_threads() == 1
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert fastdl.get_num_threads() == 2
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_calls_from_several_python_threads():
    x = random((500, 200), np.float32)
    expected = fastdl.softmax(x, 1)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: fastdl.softmax(x, 1), range(200)):
            assert_same_bits(y, expected)


def test_buffer_pool_reuses_memory_and_keeps_its_limit():
    before = fastdl.get_buffer_pool_limit()
    x = random((64, 1000), np.float32)
    try:
        fastdl.set_buffer_pool_limit(0)
        assert fastdl._core.buffer_pool_size() == 0
        y = fastdl.relu(x)
        del y
        gc.collect()
        assert fastdl._core.buffer_pool_size() == 0
        fastdl.set_buffer_pool_limit(1 << 20)
        y = fastdl.relu(x)
        address = y.ctypes.data
        assert address % 64 == 0
        view = y[1:]
        del y
        assert fastdl._core.buffer_pool_size() == 0  # a view keeps the memory
        del view
        assert x.nbytes <= fastdl._core.buffer_pool_size() <= 1.25 * x.nbytes
        assert fastdl.relu(x).ctypes.data == address
        large = fastdl.softmax(random((2000, 1000)), 1)
        del large
        assert fastdl._core.buffer_pool_size() <= 1 << 20
        fastdl.set_buffer_pool_limit(0)
        fastdl.set_buffer_pool_limit(1 << 30)
        x = np.zeros((5, 1 << 20), np.float32)
        address, held = fastdl.relu(x).ctypes.data, fastdl._core.buffer_pool_size()
        y = fastdl.relu(x[:3])
        assert y.ctypes.data == address  # a large buffer serves from half its size on
        assert fastdl._core.buffer_pool_size() == 0
        assert fastdl.relu(x[:2]).ctypes.data != address
        del y
        assert fastdl._core.buffer_pool_size() == held + x[:2].nbytes  # and is what it was
        assert fastdl.relu(x).ctypes.data == address
    finally:
        fastdl.set_buffer_pool_limit(before)
    for bad in (-1, 1.5, "1"):
        with pytest.raises(TypeError):
            fastdl.set_buffer_pool_limit(bad)


def test_isa():
    before = fastdl.get_isa()
    assert before in fastdl.supported_isas()
    with pytest.raises(ValueError, match=r"\[set_isa\] unknown ISA 'sse9'"):
        fastdl.set_isa("sse9")
    assert fastdl.get_isa() == before
    assert (
        python("import fastdl; print(fastdl.get_isa())", FASTDL_ISA="scalar").stdout == "scalar\n"
    )
    wrong = python("import fastdl", FASTDL_ISA="sse9")
    assert wrong.returncode == 1 and "unknown ISA 'sse9'" in wrong.stderr


def test_precision():
    assert fastdl.get_precision() == "auto"
    fastdl.set_precision("strict")
    assert fastdl.get_precision() == "strict"
    with pytest.raises(ValueError, match='expected "auto" or "strict", got "fast"'):
        fastdl.set_precision("fast")
    fastdl.set_precision("auto")


def test_show_config(capsys):
    fastdl.show_config()
    printed = capsys.readouterr().out
    for word in (fastdl.__version__, fastdl.get_isa(), "threads", "libgomp", "CUDA", "-O3"):
        assert word in printed
