#pragma once

#include <cstdint>

#include "core/isa.h"
#include "kernels/pool_windows.h"

namespace fastdl {

template <typename T>
struct AdaptiveAvgPool2dKernels {
  // y and dy are (planes, rows.output, columns.output), x and dx are (planes, rows.size,
  // columns.size).
  void (*forward_rows)(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows);
  void (*forward_windows)(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows);
  void (*backward)(T* dx, const T* dy, int64_t planes, const AdaptiveWindows& windows);
};

FASTDL_DECLARE_KERNELS(AdaptiveAvgPool2dKernels, adaptive_avg_pool2d_kernels)

}  // namespace fastdl
