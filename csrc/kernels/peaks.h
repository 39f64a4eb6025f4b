#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// What bounds every kernel on this machine; see ops/peaks.h.
template <typename T>
struct PeaksKernels {
  // Keeps the FMA units of one core full for `steps` steps and returns the number of FLOPs it did.
  double (*fma_loop)(int64_t steps, T* sink);
  // a = b + 3 c over n elements, a written past the caches.
  void (*triad)(T* a, const T* b, const T* c, int64_t n);
};

FASTDL_DECLARE_KERNELS(PeaksKernels, peaks_kernels)

}  // namespace fastdl
