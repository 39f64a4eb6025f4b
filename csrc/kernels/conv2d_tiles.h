#pragma once

#include <cstdint>

#include "core/epilogue.h"
#include "core/half.h"
#include "kernels/conv2d.h"

namespace fastdl {

// One group, windows of up to 16x16, a stride of 1 or 2 along the width. E is float, bfloat16 or
// float16; sums are float.
template <typename E>
struct Conv2dTilesKernels {
  // bias may be null.
  void (*forward)(E* y, const E* x, const E* weight, const E* bias, const Conv2dSizes& sizes,
                  const Epilogue<E>& epilogue);
  // 1x1 windows of stride 1 only.
  void (*input_gradient)(E* dx, const E* dy, const E* weight, const Conv2dSizes& sizes);
};

constexpr int64_t kMaxTilesWindow = 16;

FASTDL_DECLARE_TILE_KERNELS(Conv2dTilesKernels, conv2d_tiles_kernels)

}  // namespace fastdl
