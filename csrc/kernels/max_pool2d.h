#pragma once

#include <cstdint>

#include "core/isa.h"
#include "kernels/pool_windows.h"

namespace fastdl {

template <typename T>
struct MaxPool2dKernels {
  // y and indices are (planes, rows.output, columns.output), x is (planes, rows.size,
  // columns.size). indices is null when nobody asks for them.
  using Forward = void(T* y, int64_t* indices, const T* x, int64_t planes,
                       const PoolWindows& windows);
  // Buffers some rows of the padded x. The taps' offsets must be exact in T, and every window must
  // have a column inside: only one that is alone in its row can have none.
  Forward* forward_rows;
  Forward* forward_windows;  // any windows, one after the other
  // dx is (planes, plane), dy and indices are (planes, outputs). Returns where the first index
  // outside [lowest, plane) lies, or -1; then dx is not complete.
  int64_t (*backward)(T* dx, const T* dy, const int64_t* indices, int64_t lowest, int64_t planes,
                      int64_t plane, int64_t outputs);
};

// max_pool2d_taps.cpp: windows for which has_few_taps().
template <typename T>
struct MaxPool2dTapsKernels {
  // codes, of y's shape: which tap of its window each output is. Null when nobody asks for them.
  void (*forward)(T* y, uint8_t* codes, const T* x, int64_t planes, const PoolWindows& windows);
  void (*backward)(T* dx, const T* dy, const uint8_t* codes, int64_t planes,
                   const PoolWindows& windows);
};

FASTDL_DECLARE_KERNELS(MaxPool2dKernels, max_pool2d_kernels)
FASTDL_DECLARE_KERNELS(MaxPool2dTapsKernels, max_pool2d_taps_kernels)

}  // namespace fastdl
