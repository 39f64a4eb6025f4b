#pragma once

#include <cstdint>

#include "core/isa.h"
#include "kernels/pool_windows.h"

namespace fastdl {

// Its backward is that of MaxPool2dKernels.
template <typename T>
struct AdaptiveMaxPool2dKernels {
  using Forward = void(T* y, int64_t* indices, const T* x, int64_t planes,
                       const AdaptiveWindows& windows);

  // y and indices are (planes, rows.output, columns.output), x is (planes, rows.size,
  // columns.size). indices is null when nobody asks for them.
  Forward* forward_rows;     // for narrow windows and planes of less than 2^24 elements
  Forward* forward_windows;  // for planes of less than 2^24 elements
  Forward* forward_huge;
};

FASTDL_DECLARE_KERNELS(AdaptiveMaxPool2dKernels, adaptive_max_pool2d_kernels)

}  // namespace fastdl
