// Slices of an array (outer, dim, inner) along dim, for softmax and the losses on top of it.
//
// With inner = 1 a slice is a row and the lanes run along it; otherwise the lanes run along inner,
// one column each, and no lane meets another.
#pragma once

#include <math.h>

#include "core/parallel.h"
#include "core/reduce.h"
#include "core/vec_math.h"

namespace fastdl::FASTDL_ISA {

// About 16k elements a block: some 10 us with exp.
constexpr int64_t kSliceGrain = 16384;

// row(r) for every row of `dim` elements.
template <typename Row>
FASTDL_INLINE void for_each_row(int64_t rows, int64_t dim, Row&& row) {
  const int64_t grain = dim < kSliceGrain ? kSliceGrain / (dim > 0 ? dim : 1) : 1;
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

// column(offset of its first element, lanes) for every vector of columns of (outer, dim, inner).
template <typename T, typename Column>
FASTDL_INLINE void for_each_column(int64_t outer, int64_t dim, int64_t inner, Column&& column) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t vectors = ceil_div(inner, lanes);
  const int64_t cost = dim * lanes;
  const int64_t grain = cost < kSliceGrain ? kSliceGrain / (cost > 0 ? cost : 1) : 1;
  parallel_ranges(outer * vectors, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t left = inner - i % vectors * lanes;
      const int64_t offset = i / vectors * dim * inner + i % vectors * lanes;
      column(offset, static_cast<int>(left < lanes ? left : lanes));
    }
  });
}

template <typename T>
FASTDL_INLINE T row_max(const T* x, int64_t n) {
  Vec<T> m = broadcast(static_cast<T>(-INFINITY));
  for_each_vec<T>(n, [&](int64_t i, int lanes) {
    const Vec<T> v = load(x + i, lanes);
    m = select(first_lanes<T>(lanes), max(v, m), m);
  });
  return reduce_max(m);
}

// sum_i exp(x_i - m); visit(i, lanes, exp(x_i - m)) sees every term.
template <typename T, typename Visit>
FASTDL_INLINE double row_sum_exp(const T* x, int64_t n, T m, Visit&& visit) {
  return blocked_sum<T>(n, [&](int64_t i, int lanes) {
    const Vec<T> e = exp(load(x + i, lanes) - broadcast(m));
    visit(i, lanes, e);
    return select(first_lanes<T>(lanes), e, zero<T>());
  });
}

// The maximum of `lanes` columns.
template <typename T>
FASTDL_INLINE Vec<T> column_max(const T* x, int64_t dim, int64_t inner, int lanes) {
  Vec<T> m = broadcast(static_cast<T>(-INFINITY));
  for (int64_t i = 0; i < dim; ++i) m = max(load(x + i * inner, lanes), m);
  return m;
}

}  // namespace fastdl::FASTDL_ISA
