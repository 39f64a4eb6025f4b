// The largest element of one window of a plane, with the lanes along the window's width.
#pragma once

#include <math.h>

#include "kernels/window_sum.h"

namespace fastdl::FASTDL_ISA {

template <typename T>
FASTDL_INLINE Vec<T> max_or_nan(Vec<T> v, Vec<T> m) {
  return select(is_nan(v), v, max(v, m));
}

// The best value so far and its offset.
template <typename T>
struct Best {
  Vec<T> value, offset;

  FASTDL_INLINE void meet(Vec<T> v, Vec<T> at) {
    const Mask<T> wins = (v > value) | is_nan(v);
    value = select(wins, v, value);
    offset = select(wins, at, offset);
  }
};

// The position of the first element equal to `value`, or of the last NaN if that is NaN.
template <typename T>
FASTDL_INLINE int64_t position_in_window(const T* x, int64_t rows, int64_t columns, int64_t width,
                                         T value) {
  const bool nan = value != value;
  for (int64_t k = 0; k < rows; ++k) {
    const int64_t row = (nan ? rows - 1 - k : k) * width;
    int64_t found = -1;
    for_each_vec<T>(columns, [&](int64_t i, int lanes) {
      const Vec<T> v = load(x + row + i, lanes);
      const Mask<T> hits = nan ? is_nan(v) : v == broadcast(value);
      if ((found >= 0 && !nan) || !any(hits & first_lanes<T>(lanes))) return;
      for (int64_t j = row + i; j < row + i + lanes && (found < 0 || nan); ++j) {
        if (nan ? x[j] != x[j] : x[j] == value) found = j;
      }
    });
    if (found >= 0) return found;
  }
  return -1;
}

// The position of the maximum, row * width + column: the first of equal elements, the last NaN.
template <typename T>
FASTDL_INLINE int64_t window_argmax(const T* x, int64_t rows, int64_t columns, int64_t width) {
  Vec<T> best = broadcast(static_cast<T>(-INFINITY));
  for_each_vec_of_window<T>(rows, columns, width, [&](int64_t i, int lanes) {
    best = select(first_lanes<T>(lanes), max_or_nan(load(x + i, lanes), best), best);
  });
  const T value = any(is_nan(best)) ? static_cast<T>(NAN) : reduce_max(best);
  return position_in_window(x, rows, columns, width, value);
}

}  // namespace fastdl::FASTDL_ISA
