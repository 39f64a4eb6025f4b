// Images from (channels, pixels) to (pixels, channels) and back: matrices transposed in registers.
//
// A band of 64 pixels at a time, for all channels: on the side where pixels lie in a line, four
// cache lines of a channel are read or written together, and on the other side the band is one run.
#include "kernels/channels_last.h"

#include <type_traits>

#include "core/cache.h"
#include "core/parallel.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kBand = 64;
constexpr int64_t kGrain = 32768;  // elements a block: some 10 us

// What the registers hold of a T: 16-bit numbers are widened, which keeps their value.
template <typename T>
using Lane = std::conditional_t<std::is_same_v<T, double>, double, float>;

// The block of `height` x `width` elements, at most a vector each, of x's rows and columns.
template <typename T>
FASTDL_INLINE void transpose_block(T* y, const T* x, int64_t rows, int64_t columns, int height,
                                   int width, bool past) {
  constexpr int lanes = Vec<Lane<T>>::lanes;
  Vec<Lane<T>> v[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    v[i] = i < height ? load(x + i * columns, width) : zero<Lane<T>>();
  }
  interleave(v);
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) {
    if (i >= width) continue;
    if constexpr (std::is_same_v<T, Lane<T>>) {
      if (past) {
        stream(y + i * rows, v[i]);
        continue;
      }
    }
    store(y + i * rows, v[i], height);
  }
}

template <typename T>
void transpose(T* y, const T* x, int64_t batch, int64_t rows, int64_t columns) {
  const bool along_rows = rows > columns;  // the pixels
  const int64_t pixels = along_rows ? rows : columns, channels = along_rows ? columns : rows;
  const int64_t bands = ceil_div(pixels, kBand),
                bytes = batch * rows * columns * static_cast<int64_t>(sizeof(T));
  // Whole vectors, each a line of the cache.
  const bool past = exceeds_cache(2 * bytes) && rows % Vec<Lane<T>>::lanes == 0;
  parallel_ranges(batch * bands, kGrain / (kBand * channels) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = k / bands * rows * columns, first = k % bands * kBand;
      const int64_t last = first + kBand < pixels ? first + kBand : pixels;
      for_each_vec<Lane<T>>(channels, [&](int64_t c, int of_channels) FASTDL_INLINE_LAMBDA {
        for_each_vec<Lane<T>>(last - first, [&](int64_t i, int of_pixels) FASTDL_INLINE_LAMBDA {
          const int64_t r = along_rows ? first + i : c, column = along_rows ? c : first + i;
          transpose_block(y + image + column * rows + r, x + image + r * columns + column, rows,
                          columns, along_rows ? of_pixels : of_channels,
                          along_rows ? of_channels : of_pixels, past);
        });
      });
    }
  });
}

}  // namespace

template <typename T>
const ChannelsLastKernels<T>& channels_last_kernels() {
  static constexpr ChannelsLastKernels<T> table = {transpose<T>};
  return table;
}
template const ChannelsLastKernels<float>& channels_last_kernels<float>();
template const ChannelsLastKernels<double>& channels_last_kernels<double>();
template const ChannelsLastKernels<bfloat16>& channels_last_kernels<bfloat16>();
template const ChannelsLastKernels<float16>& channels_last_kernels<float16>();

}  // namespace fastdl::FASTDL_ISA
