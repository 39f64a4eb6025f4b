// Products of tiles from registers, in multiply-adds of E.
#include "kernels/peaks_tiles.h"

#include "core/parts.h"
#include "core/tiles.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename E>
double product_loop(int64_t steps) {
  const Tiles tiles;
  const int64_t rounds = steps / 64;  // as long as so many steps of peaks.cpp
  for (int64_t i = 0; i < rounds; ++i) {
    multiply_tiles<0, 4, 6>();
    multiply_tiles<1, 4, 7>();
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
  }
  constexpr double kTileFlops = 2.0 * 16 * 16 * 32;
  return static_cast<double>(rounds) * 4 * kTileFlops / kTileProducts<E>;
}

}  // namespace

FASTDL_DEFINE_TILE_KERNELS(PeaksTilesKernels, peaks_tiles_kernels, product_loop<T>)

}  // namespace fastdl::FASTDL_ISA
