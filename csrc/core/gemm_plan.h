// What a matrix product with batches works on: the ops fill it in, the kernels walk it.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// One dimension of matrices, with what it takes to get to the next in A and in B; 0 to stay.
struct GemmLoop {
  int64_t size, a_stride, b_stride;
};

struct GemmLoops {
  GemmLoop loops[64];
  int count = 0;
  int64_t size = 1;

  // Where matrix `index` begins in A and in B; the last loop runs fastest.
  FASTDL_INLINE void offsets(int64_t index, int64_t* a, int64_t* b) const {
    *a = *b = 0;
    for (int i = count - 1; i >= 0; --i) {
      const int64_t at = index % loops[i].size;
      *a += at * loops[i].a_stride;
      *b += at * loops[i].b_stride;
      index /= loops[i].size;
    }
  }
};

// C[l] = bias + sum_s A[l, s] B[l, s] for all l of batch and s of sum; every C[l] is (m, n) in m *
// n elements of memory, one after the other.
struct GemmPlan {
  int64_t m, n, k;
  int64_t a_row_stride, a_col_stride, b_row_stride, b_col_stride;
  int64_t c_row_stride = n, c_col_stride = 1;
  int64_t bias_row_stride = 0, bias_col_stride = 0;
  GemmLoops batch{}, sum{};
};

}  // namespace fastdl
