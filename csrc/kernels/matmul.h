#pragma once

#include <cstdint>

#include "core/gemm_plan.h"

namespace fastdl {

// bias may be null. The two gemv are for n = 1 and a contiguous B.
template <typename T>
struct MatmulKernels {
  using Product = void (*)(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan);
  Product gemm;
  Product gemv_rows;     // a_col_stride = 1
  Product gemv_columns;  // a_row_stride = 1
};

FASTDL_DECLARE_KERNELS(MatmulKernels, matmul_kernels)

}  // namespace fastdl
