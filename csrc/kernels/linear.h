#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

template <typename T>
struct LinearKernels {
  // dbias (features) = the sum of the rows of dy (rows, features).
  void (*bias_backward)(T* dbias, const T* dy, int64_t rows, int64_t features);
};

FASTDL_DECLARE_KERNELS(LinearKernels, linear_kernels)

}  // namespace fastdl
