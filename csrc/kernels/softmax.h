#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// All arrays are (outer, dim, inner), C-contiguous; the sums run over dim.
template <typename T>
struct SoftmaxKernels {
  void (*softmax_forward)(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner);
  void (*softmax_backward)(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                           int64_t inner);
  void (*log_softmax_forward)(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner);
  void (*log_softmax_backward)(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                               int64_t inner);
};

FASTDL_DECLARE_KERNELS(SoftmaxKernels, softmax_kernels)

}  // namespace fastdl
