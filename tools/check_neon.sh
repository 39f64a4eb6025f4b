#!/usr/bin/env bash
# Cross-compiles the kernels for NEON (all but those for AMX's tiles): nothing here runs them, but they
# must stay compilable.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
printf '%s\n' csrc/kernels/*.cpp | grep -v _tiles.cpp | xargs -P "$(nproc)" -I{} sh -c '
  aarch64-linux-gnu-g++ -std=c++20 -O1 -ffp-contract=off -Wall -Wextra -Werror -Wno-uninitialized \
    -Wno-maybe-uninitialized -Icsrc -DFASTDL_ISA=neon "-DFASTDL_VEC_HEADER=\"core/vec_neon.h\"" \
    -c "$1" -o "$2/$(basename "$1").o"' _ {} "$out"
echo "$(ls "$out" | wc -l) kernel files compile for NEON"
