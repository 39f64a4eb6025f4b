// The only door to threads.
//
// Work is cut into blocks by the problem, never by the number of threads; a block writes only its
// own results (partial sums are combined by the caller in block order). So the bits of a result do
// not depend on how many threads ran, or which of them ran a block.
#pragma once

#include <cstdint>

#include "core/integers.h"
#include "core/isa.h"

namespace fastdl {

int get_num_threads();
void set_num_threads(int n);

// Runs body(context, block) for block = 0..blocks-1; rethrows the first exception a block threw.
void parallel_run(int64_t blocks, void (*body)(void*, int64_t), void* context);

// body(block) for every block. A fork and join costs 1.2-1.7 us: give a block at least 10 us of
// work.
template <typename Body>
FASTDL_INLINE void parallel_for(int64_t blocks, Body&& body) {
  if (blocks == 1) return body(int64_t{0});
  parallel_run(
      blocks, [](void* context, int64_t block) { (*static_cast<Body*>(context))(block); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// body(begin, end) for every block of `grain` elements of 0..n.
template <typename Body>
FASTDL_INLINE void parallel_ranges(int64_t n, int64_t grain, Body&& body) {
  parallel_for(ceil_div(n, grain), [&](int64_t block) {
    const int64_t begin = block * grain;
    body(begin, begin + grain < n ? begin + grain : n);
  });
}

}  // namespace fastdl
