// Matrices transposed in registers.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// visit(p, n, v) with v[r] the n values rows[p.., r] of channel r, for p = 0, lanes, ... below
// `count`, of one vector of channels; rows are `width` elements apart.
template <typename T, typename Visit>
FASTDL_INLINE void for_each_transposed(const T* rows, int64_t width, int64_t count, Visit&& visit) {
  constexpr int lanes = Vec<T>::lanes;
  for_each_vec<T>(count, [&](int64_t p, int n) {
    Vec<T> v[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) v[i] = i < n ? load(rows + (p + i) * width) : zero<T>();
    interleave(v);
    visit(p, n, v);
  });
}

}  // namespace fastdl::FASTDL_ISA
