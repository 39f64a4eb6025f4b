#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/isa.h"

namespace fastdl {

// T: float, double, bfloat16 or float16.
template <typename T>
struct ChannelsLastKernels {
  // y (batch, columns, rows) = x (batch, rows, columns), its matrices transposed.
  void (*transpose)(T* y, const T* x, int64_t batch, int64_t rows, int64_t columns);
};

FASTDL_DECLARE_KERNELS(ChannelsLastKernels, channels_last_kernels)

}  // namespace fastdl
