#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/isa.h"

namespace fastdl {

// T: bfloat16 or float16; n values.
template <typename T>
struct ConvertKernels {
  void (*widen)(float* y, const T* x, int64_t n);
  void (*narrow)(T* y, const float* x, int64_t n);  // to nearest, ties to even
};

FASTDL_DECLARE_KERNELS(ConvertKernels, convert_kernels)

}  // namespace fastdl
