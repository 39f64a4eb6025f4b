#pragma once

#include <cstdint>

#include "core/epilogue.h"
#include "core/gemm_plan.h"

namespace fastdl {

// bias may be null; C must not be empty.
constexpr int64_t kMaxDotColumns = 8;

template <typename T>
struct MatmulKernels {
  using Product = void (*)(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                           const Epilogue<T>& epilogue);
  Product gemm;          // c_col_stride = 1
  Product dots;          // n <= kMaxDotColumns, a_col_stride = b_row_stride = 1
  Product gemv_columns;  // n = 1, a_row_stride = b_row_stride = c_row_stride = 1
};

FASTDL_DECLARE_KERNELS(MatmulKernels, matmul_kernels)

}  // namespace fastdl
