#pragma once

#include <cstdint>

#include "core/epilogue.h"
#include "core/gemm_plan.h"
#include "core/half.h"

namespace fastdl {

// E is float, bfloat16 or float16; sums are float.
template <typename E>
struct MatmulTilesKernels {
  // bias and residual may be null; C must not be empty.
  void (*gemm)(E* c, const E* a, const E* b, const E* bias, const GemmPlan& plan,
               Activation activation, const E* residual);
};

FASTDL_DECLARE_TILE_KERNELS(MatmulTilesKernels, matmul_tiles_kernels)

}  // namespace fastdl
