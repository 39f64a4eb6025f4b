#!/usr/bin/env bash
# On a machine with a GPU, nvcc, PyTorch and pytest: builds for that GPU, runs every test that has kernels
# of its own on it, a small set under compute-sanitizer, and the bench, whose table goes into
# docs/benchmarks-gpu.md. Logs go to $1 (build-gpu by default).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build-gpu}
mkdir -p "$out"

step() { printf '\n== %s (%ss)\n' "$*" "$SECONDS"; }

step "build"
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$architecture" != 90 ] || architecture=90a
python -m pip install --quiet cmake ninja pybind11 numpy ml_dtypes pytest pytest-xdist hypothesis \
  threadpoolctl expecttest
cmake -S . -B build-gpu -G Ninja -DFASTDL_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" -DPython_EXECUTABLE="$(command -v python)"
cmake --build build-gpu
export PYTHONPATH=$PWD
python -m fastdl doctor

step "tests"
python -m pytest -q -p no:cacheprovider tests -k cuda 2>&1 | tee "$out/tests.log"

step "compute-sanitizer"
small="tests/test_softmax.py tests/test_layer_norm.py tests/test_cuda_products.py"
for tool in memcheck racecheck initcheck synccheck; do
  compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 5 \
    python -m pytest -q -p no:cacheprovider $small -k "cuda and not large and not torch_ " \
    2>&1 | tee "$out/$tool.log" | tail -3
done

step "bench"
python -m bench --device cuda --dtype float32,bfloat16 --vs torch,torch-foreach,torch-fused,liger \
  --json "$out/rows.json" --markdown docs/benchmarks-gpu.md#cuda

step "done"
