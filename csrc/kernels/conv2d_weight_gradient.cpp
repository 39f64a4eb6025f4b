// dweight[k, c, i, j] = sum_{n, p} dy[n, k, p] x[n, c, p * stride + (i, j) * dilation]
//
// A matrix product (K x pixels) (pixels x C R S) that sums over the images. dweight is cut into
// tiles of some channels or taps, and the sum into fixed parts if there are too few tiles for the
// threads; each part makes a dweight of its own, and these are added up in order. A block copies
// what a band of pixels reads of x with the channels innermost, so that the taps under a pixel lie
// in a few long runs. For 1x1 windows x itself is the right matrix.
#include <string.h>

#include "core/gemm.h"
#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kMaxRows = 1024;           // output channels of a tile
constexpr int64_t kMinBlocks = 16;           // with fewer tiles, the sum is divided
constexpr int64_t kMaxBands = 512;           // added one after the other: bounds the error
constexpr int64_t kPartsBytes = 32ll << 20;  // of all parts of the sum
constexpr double kBlockFlops = 2e6;          // some 20 us

// Copies (channels, width) planes `stride` apart to (width, channels).
template <typename T>
void transpose(T* to, const T* from, int64_t stride, int64_t channels, int64_t width) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t c = 0; c < channels; c += lanes) {
    const auto rows = static_cast<int>(smaller(lanes, channels - c));
    for_each_vec<T>(width, [&](int64_t w, int n) {
      Vec<T> v[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        v[i] = i < rows ? load(from + (c + i) * stride + w, n) : zero<T>();
      }
      interleave(v);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        if (i < n) store(to + (w + i) * channels + c, v[i], rows);
      }
    });
  }
}

// A tile of dweight: channels c0.. of a group, and taps t0.. under the window.
struct Tile {
  int64_t c0, channels, t0, taps;
};

// What a band reads of some channels of x, (places along H, places along W, channels).
template <typename T>
class ChannelsLast {
 public:
  ChannelsLast(const Conv2dSizes& s, HeightWidth size)
      : s_(s),
        cols_(size.w),
        rows_(size.h, s.kernel.h, s.stride.h, s.dilation.h),
        columns_(size.w, s.kernel.w, s.stride.w, s.dilation.w) {}

  int64_t scratch(int64_t channels) const {
    return rows_.size * columns_.size * channels + Vec<T>::lanes;
  }

  // x: the first plane of the group.
  void fill(T* to, const T* x, HeightWidth first, const Tile& tile) const {
    const int64_t last = (tile.t0 + tile.taps - 1) / s_.kernel.w * rows_.tap_step +
                         (rows_.outs - 1) * rows_.out_step;
    const int64_t row_size = columns_.size * tile.channels;
    for (int64_t i = tile.t0 / s_.kernel.w * rows_.tap_step; i <= last; ++i) {
      const int64_t h = first.h * s_.stride.h + rows_.element(i) - s_.padding.h;
      if (h < 0 || h >= s_.in.h) {
        memset(to + i * row_size, 0, static_cast<size_t>(row_size) * sizeof(T));
      } else {
        fill_row(to + i * row_size, x + tile.c0 * s_.in.area() + h * s_.in.w,
                 first.w * s_.stride.w - s_.padding.w, tile.channels);
      }
    }
  }

  // Packs B[p, (tap, channel)] of a tile, p the outputs of the band.
  auto pack(const T* scratch, const Tile& tile) const {
    return [=, this](T* strip, int64_t j, int cols, int64_t p, int64_t depth) {
      Run runs[kCols];
      const int count = runs_of(runs, j, cols, tile);
      for (int64_t q = 0; q < depth; ++q) {
        const int64_t row = (p + q) / cols_, column = (p + q) % cols_;
        const T* from =
            scratch +
            (row * rows_.out_step * columns_.size + column * columns_.out_step) * tile.channels;
        if (q < depth - 1) {
          copy_runs(strip + q * kCols, from, runs, count);
        } else {
          copy_runs_exactly(strip + q * kCols, from, runs, count);
        }
      }
    };
  }

 private:
  static constexpr int kCols = GemmTile<T>::cols;

  void fill_row(T* to, const T* x, int64_t start, int64_t channels) const {
    if (columns_.in_order()) {
      const Inside inside(start, 1, columns_.size, s_.in.w);
      for (int64_t i = 0; i < inside.begin * channels; ++i) to[i] = 0;
      transpose(to + inside.begin * channels, x + start + inside.begin, s_.in.area(), channels,
                inside.end - inside.begin);
      for (int64_t i = inside.end * channels; i < columns_.size * channels; ++i) to[i] = 0;
      return;
    }
    for (int64_t i = 0; i < columns_.size; ++i) {
      const int64_t w = start + columns_.element(i);
      const bool inside = w >= 0 && w < s_.in.w;
      for (int64_t c = 0; c < channels; ++c) {
        to[i * channels + c] = inside ? x[c * s_.in.area() + w] : 0;
      }
    }
  }

  // Columns j.. of a tile, as runs in the scratch memory under the first output.
  int runs_of(Run* runs, int64_t j, int cols, const Tile& tile) const {
    int count = 0;
    for (int to = 0; to < cols;) {
      const int64_t tap = tile.t0 + (j + to) / tile.channels, c = (j + to) % tile.channels;
      const int64_t place = tap / s_.kernel.w * rows_.tap_step * columns_.size +
                            tap % s_.kernel.w * columns_.tap_step;
      const int64_t from = place * tile.channels + c;
      const auto length = static_cast<int>(smaller(cols - to, tile.channels - c));
      if (count > 0 && runs[count - 1].from + runs[count - 1].length == from) {
        runs[count - 1].length += length;
      } else {
        runs[count++] = {from, to, length};
      }
      to += length;
    }
    return count;
  }

  const Conv2dSizes& s_;
  int64_t cols_;
  TapAxis rows_, columns_;
};

// How dweight is cut into tiles, and the sum into parts.
template <typename T>
struct Plan {
  int64_t rows, channels, taps;                 // of a tile
  int64_t row_tiles, channel_tiles, tap_tiles;  // of a group
  int64_t parts, bands_per_part;

  Plan(const Conv2dSizes& s, int64_t bands) {
    const auto cut = [](int64_t n, int64_t most, int64_t& size, int64_t& count) {
      size = ceil_div(n, ceil_div(n, larger(most, 1)));
      count = ceil_div(n, size);
    };
    constexpr int64_t kMaxCols = GemmTile<T>::max_cols;
    cut(s.group_out_channels(), kMaxRows, rows, row_tiles);
    cut(s.kernel.area(), kMaxCols, taps, tap_tiles);
    cut(s.group_channels(), kMaxCols / taps, channels, channel_tiles);

    const double weights = static_cast<double>(s.out_channels) * static_cast<double>(s.taps());
    const double flops = 2 * weights * static_cast<double>(s.batch * s.out.area());
    parts = larger(ceil_div(kMinBlocks, tiles(s)), ceil_div(bands, kMaxBands));
    parts = smaller(parts, static_cast<int64_t>(flops / kBlockFlops));
    parts = smaller(parts, static_cast<int64_t>(kPartsBytes / (weights * sizeof(T))));
    parts = larger(smaller(parts, bands), 1);
    bands_per_part = ceil_div(bands, parts);
  }
  int64_t tiles(const Conv2dSizes& s) const {
    return s.groups * row_tiles * channel_tiles * tap_tiles;
  }
};

// A block of the work: some rows of a tile of a group, and a part of the sum.
template <typename T>
class Block {
 public:
  Block(const Plan<T>& plan, const Conv2dSizes& s, int64_t index) : s_(s) {
    const auto next = [&index](int64_t count) {
      const int64_t i = index % count;
      index /= count;
      return i;
    };
    part = next(plan.parts);
    tile_.t0 = next(plan.tap_tiles) * plan.taps;
    tile_.c0 = next(plan.channel_tiles) * plan.channels;
    row_ = next(plan.row_tiles) * plan.rows;
    group_ = index;
    tile_.taps = smaller(plan.taps, s.kernel.area() - tile_.t0);
    tile_.channels = smaller(plan.channels, s.group_channels() - tile_.c0);
    rows_ = smaller(plan.rows, s.group_out_channels() - row_);
  }

  // c += dy x over one band of an image; c = dy x for the first.
  void add_band(T* c, const T* dy, const T* x, const Bands& bands, int64_t n, int64_t band,
                bool first, const ChannelsLast<T>& layout, T* scratch, T* gemm) const {
    const int64_t pixels = s_.out.area(), plane = s_.in.area();
    const T* x_group = x + (n * s_.groups + group_) * s_.group_channels() * plane;
    const T* dy_rows = dy +
                       (n * s_.out_channels + group_ * s_.group_out_channels() + row_) * pixels +
                       bands.offset(band);
    const auto run = [&](auto&& pack) {
      gemm_block<T>(c, cols(), rows_, cols(), bands.outputs(band),
                    PackRows<T>{{dy_rows, pixels, 1}}, pack,
                    first ? GemmStart<T>{} : GemmStart<T>{c, cols(), 1}, gemm);
    };
    if (s_.is_pointwise()) {
      run(PackCols<T>{{x_group + tile_.c0 * plane + bands.offset(band), 1, plane}});
    } else {
      layout.fill(scratch, x_group, bands.first(band), tile_);
      run(layout.pack(scratch, tile_));
    }
  }

  // c[row, (tap, channel)] to dweight[row, channel, tap].
  void write(T* dweight, const T* c) const {
    const int64_t area = s_.kernel.area();
    T* to = dweight +
            ((group_ * s_.group_out_channels() + row_) * s_.group_channels() + tile_.c0) * area +
            tile_.t0;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t i = 0; i < tile_.channels; ++i) {
        for (int64_t t = 0; t < tile_.taps; ++t) {
          to[(row * s_.group_channels() + i) * area + t] = c[row * cols() + t * tile_.channels + i];
        }
      }
    }
  }

  int64_t part;

 private:
  int64_t cols() const { return tile_.taps * tile_.channels; }

  const Conv2dSizes& s_;
  Tile tile_;
  int64_t row_, rows_, group_;
};

template <typename T>
void weight_gradient(T* dweight, const T* dy, const T* x, const Conv2dSizes& s) {
  const bool pointwise = s.is_pointwise();
  const Bands bands(pointwise ? HeightWidth{1, s.out.area()} : s.out, GemmTile<T>::max_depth);
  const int64_t all_bands = s.batch * bands.count, weights = s.out_channels * s.taps();
  const Plan<T> plan(s, all_bands);
  const ChannelsLast<T> layout(s, bands.size);
  const Workspace<T> partial(plan.parts > 1 ? plan.parts * weights : 0);
  T* const parts = plan.parts > 1 ? partial.data() : dweight;

  parallel_for(plan.tiles(s) * plan.parts, [&](int64_t index) {
    const Block<T> block(plan, s, index);
    const int64_t cols = plan.channels * plan.taps;
    const Workspace<T> c(plan.rows * cols), gemm(gemm_scratch<T>(cols, bands.size.area()));
    const Workspace<T> scratch(pointwise ? 0 : layout.scratch(plan.channels));
    const int64_t begin = block.part * plan.bands_per_part;
    const int64_t end = smaller(begin + plan.bands_per_part, all_bands);
    if (begin >= end) memset(c.data(), 0, static_cast<size_t>(plan.rows * cols) * sizeof(T));
    for (int64_t i = begin; i < end; ++i) {
      block.add_band(c.data(), dy, x, bands, i / bands.count, i % bands.count, i == begin, layout,
                     scratch.data(), gemm.data());
    }
    block.write(parts + block.part * weights, c.data());
  });
  if (plan.parts == 1) return;
  parallel_ranges(weights, 16384, [&](int64_t begin, int64_t end) {
    for_each_vec<T>(end - begin, [&](int64_t i, int lanes) {
      Vec<T> sum = zero<T>();
      for (int64_t part = 0; part < plan.parts; ++part) {
        sum += load(parts + part * weights + begin + i, lanes);
      }
      store(dweight + begin + i, sum, lanes);
    });
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dWeightGradientKernels, conv2d_weight_gradient_kernels,
                      weight_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
