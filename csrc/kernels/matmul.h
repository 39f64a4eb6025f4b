#pragma once

#include <cstdint>

#include "core/epilogue.h"
#include "core/gemm_plan.h"
#include "core/half.h"

namespace fastdl {

// bias may be null; C must not be empty.
constexpr int64_t kMaxDotColumns = 8;

template <typename T>
struct MatmulKernels {
  using Product = void (*)(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                           const Epilogue<T>& epilogue);
  Product gemm;
  // gemm with all of B packed beforehand, and what packs it: b and the plan as for gemm.
  Product gemm_packed;
  int64_t (*packed_size)(int64_t n, int64_t k);
  void (*pack)(T* packed, const T* b, const GemmPlan& plan);
  Product dots;          // n <= kMaxDotColumns, a_col_stride = b_row_stride = 1
  Product gemv_columns;  // n = 1, a_row_stride = b_row_stride = c_row_stride = 1
  // gemm with pairs of bfloat16, k of them, in each element of A and B; float and AVX-512 only, and
  // for a CPU with AVX512_BF16.
  Product gemm_pairs;
  // These pairs, of the rows of x (rows, cols) or of the columns of x (matrices, rows, cols); 0
  // goes with the last of an odd number.
  void (*pair_in_rows)(uint32_t* pairs, const bfloat16* x, int64_t rows, int64_t cols);
  void (*pair_in_columns)(uint32_t* pairs, const bfloat16* x, int64_t matrices, int64_t rows,
                          int64_t cols);
};

FASTDL_DECLARE_KERNELS(MatmulKernels, matmul_kernels)

}  // namespace fastdl
