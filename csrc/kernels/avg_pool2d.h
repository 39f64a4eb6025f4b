#pragma once

#include <cstdint>

#include "core/isa.h"
#include "kernels/pool_windows.h"

namespace fastdl {

// The divisor of a window: a count of its elements, or `divisor` unless that is 0.
struct AvgPoolDivisor {
  bool count_include_pad;
  int64_t divisor;
};

template <typename T>
struct AvgPool2dKernels {
  // y and dy are (planes, rows.output, columns.output), x and dx are (planes, rows.size,
  // columns.size); without dilation.
  using Kernel = void(T* to, const T* from, int64_t planes, const PoolWindows& windows,
                      AvgPoolDivisor divisor);
  Kernel* forward_rows;     // buffers some rows of the padded x
  Kernel* forward_windows;  // any windows, one after the other
  Kernel* backward_rows;
  Kernel* backward_windows;
};

// avg_pool2d_taps.cpp: windows for which has_few_taps().
template <typename T>
struct AvgPool2dTapsKernels {
  typename AvgPool2dKernels<T>::Kernel *forward, *backward;
};

FASTDL_DECLARE_KERNELS(AvgPool2dKernels, avg_pool2d_kernels)
FASTDL_DECLARE_KERNELS(AvgPool2dTapsKernels, avg_pool2d_taps_kernels)

}  // namespace fastdl
