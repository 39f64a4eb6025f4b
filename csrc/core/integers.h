// Arithmetic of sizes.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

FASTDL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTDL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTDL_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
FASTDL_INLINE int64_t round_up(int64_t n, int64_t step) { return ceil_div(n, step) * step; }

}  // namespace fastdl
