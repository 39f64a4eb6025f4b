#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// x is (rows, size), C-contiguous; mean and rstd (rows,); weight and bias (size,) or null.
template <typename T>
struct LayerNormKernels {
  void (*forward)(T* y, T* mean, T* rstd, const T* x, const T* weight, const T* bias, int64_t rows,
                  int64_t size, double eps);
  // dx, dweight and dbias may be null.
  void (*backward)(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* mean,
                   const T* rstd, const T* weight, int64_t rows, int64_t size);
};

FASTDL_DECLARE_KERNELS(LayerNormKernels, layer_norm_kernels)

}  // namespace fastdl
