// One window of a plane with the lanes along its width.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// body(i, lanes) for the vectors of the window at 0 of a plane `width` elements wide; as one run
// when the window is as wide as the plane.
template <typename T, typename Body>
FASTDL_INLINE void for_each_vec_of_window(int64_t rows, int64_t columns, int64_t width,
                                          Body&& body) {
  if (columns == width) return for_each_vec<T>(rows * width, body);
  for (int64_t r = 0; r < rows; ++r) {
    for_each_vec<T>(columns, [&](int64_t i, int lanes) { body(r * width + i, lanes); });
  }
}

// The sum of a window: up to 64 vectors in T, then in double.
template <typename T>
FASTDL_INLINE double window_sum(const T* x, int64_t rows, int64_t columns, int64_t width) {
  double total = 0;
  Vec<T> sum = zero<T>();
  int added = 0;
  for_each_vec_of_window<T>(rows, columns, width, [&](int64_t i, int lanes) {
    sum += load(x + i, lanes);
    if (++added < 64) return;
    total += static_cast<double>(reduce_add(sum));
    sum = zero<T>();
    added = 0;
  });
  return total + static_cast<double>(reduce_add(sum));
}

// Adds `share` to every element of a window.
template <typename T>
FASTDL_INLINE void add_to_window(T* x, int64_t rows, int64_t columns, int64_t width, T share) {
  for_each_vec_of_window<T>(rows, columns, width, [&](int64_t i, int lanes) {
    store(x + i, load(x + i, lanes) + broadcast(share), lanes);
  });
}

}  // namespace fastdl::FASTDL_ISA
