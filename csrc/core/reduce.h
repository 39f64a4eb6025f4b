// Sums whose error does not grow with their length, and maxima.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// sum of term(i, lanes) over the vectors of 0..n-1: within blocks of 64 vectors in the lanes (or
// 512 elements, whichever is less), then block after block in double. The worst error is that of
// some 64 additions in T, whatever n is. Lanes beyond n must be 0 in what term returns.
template <typename T, typename Term>
FASTDL_INLINE double blocked_sum(int64_t n, Term&& term) {
  constexpr int64_t kBlock = 64 * Vec<T>::lanes < 512 ? 64 * Vec<T>::lanes : 512;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = n - begin < kBlock ? n - begin : kBlock;
    Vec<T> sum = zero<T>();
    for_each_vec<T>(size, [&](int64_t i, int lanes) { sum += term(begin + i, lanes); });
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

// Lane by lane, sum of the vectors term(i) of 0..n-1: 64 at a time, then the sums of 64, then those
// of 4096, so that the worst error is that of about 128 + n / 4096 additions in T.
template <typename T, typename Term>
FASTDL_INLINE Vec<T> blocked_lane_sum(int64_t n, Term&& term) {
  Vec<T> total = zero<T>(), outer = zero<T>(), inner = zero<T>();
  for (int64_t i = 0; i < n; ++i) {
    inner += term(i);
    if (i % 64 == 63) {
      outer += inner;
      inner = zero<T>();
    }
    if (i % 4096 == 4095) {
      total += outer;
      outer = zero<T>();
    }
  }
  return total + (outer + inner);
}

// Lane by lane, the largest of `start` and the vectors term(i) of 0..n-1: four at a time, as one
// would wait for the other.
template <typename T, typename Term>
FASTDL_INLINE Vec<T> lane_max(int64_t n, Vec<T> start, Term&& term) {
  Vec<T> m[4] = {start, start, start, start};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) m[k] = max(term(i + k), m[k]);
  }
  for (; i < n; ++i) m[0] = max(term(i), m[0]);
  return max(max(m[0], m[1]), max(m[2], m[3]));
}

}  // namespace fastdl::FASTDL_ISA
