#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/isa.h"

namespace fastdl {

// The limit of products on tiles; see ops/peaks.h.
template <typename E>
struct PeaksTilesKernels {
  // Keeps the tile unit of one core full for `steps` steps and returns the number of FLOPs it did.
  double (*product_loop)(int64_t steps);
};

FASTDL_DECLARE_TILE_KERNELS(PeaksTilesKernels, peaks_tiles_kernels)

}  // namespace fastdl
