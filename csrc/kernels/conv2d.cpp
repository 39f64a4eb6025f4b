// y[n, k, p] = bias[k] + sum_{c, i, j} weight[k, c, i, j] x[n, c, p * stride + (i, j) * dilation]
//
// A matrix product (K x C R S) (C R S x pixels) for each image and group. The weight is packed once
// a call. A block takes a band of pixels that fills the columns of one gemm_block: it copies the
// rows it needs with their padding (TapRows), and packs patches from there as the product needs
// them, by whole vectors.
//
// The gradient of x for stride 1 is the convolution of dy with the weight flipped and transposed.
#include "kernels/conv2d.h"

#include <string.h>

#include "core/apply_epilogue.h"
#include "core/gemm.h"
#include "core/reduce.h"
#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr double kBlockFlops = 1e6;  // some 10 us
constexpr int64_t kGrain = 65536;    // elements to read, some 10 us
constexpr int64_t kMinBlocks = 8;    // with fewer, output channels are divided too

// The weight as gemm_block wants its strips of A, one group after the other.
template <typename T>
class PackedWeight {
 public:
  // pack(strip, g, k0, rows) packs the rows from k0 on of group g.
  template <typename Pack>
  PackedWeight(const Conv2dSizes& s, Pack&& pack)
      : strips_(ceil_div(s.group_out_channels(), kRows)),
        strip_size_(kRows * (s.taps() + Vec<T>::lanes)),
        data_(s.groups * strips_ * strip_size_) {
    const int64_t outs = s.group_out_channels();
    parallel_ranges(s.groups * strips_, kGrain / strip_size_ + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k0 = i % strips_ * kRows;
        pack(data_.data() + i * strip_size_, i / strips_, k0,
             static_cast<int>(smaller(kRows, outs - k0)));
      }
    });
  }
  // The packer of the rows from k0 on of group g.
  auto rows(int64_t g, int64_t k0) const {
    const T* strips = data_.data() + (g * strips_ + k0 / kRows) * strip_size_;
    return [=, size = strip_size_](T* strip, int64_t i, int, int64_t p, int64_t depth) {
      memcpy(strip, strips + i / kRows * size + p * kRows,
             static_cast<size_t>(depth * kRows) * sizeof(T));
    };
  }

 private:
  static constexpr int64_t kRows = GemmTile<T>::rows;
  int64_t strips_, strip_size_;  // with room for the last vector of pack_strip
  Workspace<T> data_;
};

// Packs the patches under a band: row (c, i, j) and column o of the matrix is what tap (i, j) of
// the band's output o reads of channel c; flipped, the tap as far from the other end.
template <typename T>
class PackPatches {
 public:
  PackPatches(const Conv2dSizes& s, const TapRows<T>& layout, HeightWidth size, bool flipped,
              T* scratch)
      : s_(s), layout_(layout), cols_(size.w), flipped_(flipped), scratch_(scratch) {}

  static int64_t scratch(const Conv2dSizes& s, const TapRows<T>& layout) {
    const int64_t channels = (gemm_depth<T>(s.taps()) - 1) / s.kernel.area() + 2;
    return layout.scratch(smaller(channels, s.group_channels()));
  }

  // x: the first plane of the group.
  void start(const T* x, HeightWidth first) {
    x_ = x;
    first_ = first;
    filled_ = -1;
  }

  void operator()(T* strip, int64_t first, int cols, int64_t p, int64_t depth) {
    if (p != filled_) fill(p, depth);
    Run runs[kCols];
    int count = 0;
    for (int to = 0; to < cols; to += runs[count++].length) {
      const int64_t row = (first + to) / cols_, column = (first + to) % cols_;
      const int64_t length = smaller(cols - to, cols_ - column);
      runs[count] = {row * layout_.out_step() + column, to, static_cast<int>(length)};
    }
    const int64_t area = s_.kernel.area();
    int64_t h = p % area / s_.kernel.w, w = p % s_.kernel.w;
    const T* plane = scratch_;
    for (int64_t q = 0; q < depth; ++q) {
      const int64_t i = flipped_ ? s_.kernel.h - 1 - h : h, j = flipped_ ? s_.kernel.w - 1 - w : w;
      const T* from = plane + i * layout_.tap_step() + layout_.columns()[j];
      if (q < depth - 1) {
        copy_runs(strip + q * kCols, from, runs, count);
      } else {
        copy_runs_exactly(strip + q * kCols, from, runs, count);
      }
      if (++w < s_.kernel.w) continue;
      w = 0;
      if (++h < s_.kernel.h) continue;
      h = 0;
      plane += layout_.plane();
    }
  }

 private:
  static constexpr int kCols = GemmTile<T>::cols;

  void fill(int64_t p, int64_t depth) {
    const int64_t area = s_.kernel.area(), channel = p / area;
    const int64_t channels = ceil_div(p + depth, area) - channel;
    for (int64_t c = 0; c < channels; ++c) {
      layout_.fill(scratch_ + c * layout_.plane(), x_ + (channel + c) * s_.in.area(), first_);
    }
    filled_ = p;
  }

  const Conv2dSizes& s_;
  const TapRows<T>& layout_;
  int64_t cols_;
  bool flipped_;
  T* scratch_;
  const T* x_ = nullptr;
  HeightWidth first_{};
  int64_t filled_ = -1;
};

template <typename T>
void convolve(T* y, const T* x, const PackedWeight<T>& weight, const T* bias, const Conv2dSizes& s,
              bool flipped, const Epilogue<T>& epilogue) {
  const int64_t outs = s.group_out_channels(), pixels = s.out.area();
  const Bands bands(s.out, GemmTile<T>::max_cols);
  const TapRows<T> layout(s, bands.size);

  const int64_t areas = s.batch * s.groups * bands.count;
  const int64_t strips = ceil_div(outs, GemmTile<T>::rows);
  const int64_t parts = areas < kMinBlocks ? smaller(strips, ceil_div(kMinBlocks, areas)) : 1;
  const int64_t part = ceil_div(strips, parts) * GemmTile<T>::rows;
  const int64_t columns = bands.size.area();
  const double flops = 2.0 * static_cast<double>(smaller(part, outs)) *
                       static_cast<double>(s.taps() + 1) * static_cast<double>(columns);
  const auto grain = static_cast<int64_t>(kBlockFlops / flops) + 1;

  parallel_ranges(areas * parts, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> gemm(gemm_scratch<T>(columns, s.taps()));
    const Workspace<T> rows(PackPatches<T>::scratch(s, layout));
    PackPatches<T> patches(s, layout, bands.size, flipped, rows.data());
    for (int64_t block = begin; block < end; ++block) {
      const int64_t k0 = block % parts * part, m = smaller(part, outs - k0);
      if (m <= 0) continue;
      const int64_t band = block / parts % bands.count, plane = block / parts / bands.count;
      const int64_t g = plane % s.groups;
      const T* group = x + plane * s.group_channels() * s.in.area();
      T* to = y + (plane * outs + k0) * pixels + bands.offset(band);
      const GemmStart<T> start{bias ? bias + g * outs + k0 : nullptr, 1, 0};
      patches.start(group, bands.first(band));
      gemm_block<T>(to, pixels, m, bands.outputs(band), s.taps(), weight.rows(g, k0), patches,
                    start, gemm.data());
      apply_epilogue(to, pixels, m, bands.outputs(band), epilogue.at(to - y));
    }
  });
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  const PackedWeight<T> packed(s, [&](T* strip, int64_t g, int64_t k0, int rows) {
    const T* from = weight + (g * s.group_out_channels() + k0) * s.taps();
    pack_strip<GemmTile<T>::rows>(strip, Matrix<T>{from, s.taps(), 1}, rows, s.taps());
  });
  convolve(y, x, packed, bias, s, false, epilogue);
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  Conv2dSizes t = s;
  t.channels = s.out_channels;
  t.out_channels = s.channels;
  t.in = s.out;
  t.out = s.in;
  t.padding = {s.reach().h - s.padding.h, s.reach().w - s.padding.w};
  const int64_t outs = s.group_out_channels(), channels = s.group_channels();
  const int64_t area = s.kernel.area();
  const PackedWeight<T> packed(t, [&](T* strip, int64_t g, int64_t c0, int rows) {
    for (int64_t k = 0; k < outs; ++k) {  // in order: each overwrites what the last left behind it
      const T* from = weight + ((g * outs + k) * channels + c0) * area;
      pack_strip<GemmTile<T>::rows>(strip + k * area * GemmTile<T>::rows, Matrix<T>{from, area, 1},
                                    rows, area);
    }
  });
  convolve<T>(dx, dy, packed, nullptr, t, true, {});
}

template <typename T>
void bias_gradient(T* dbias, const T* dy, const Conv2dSizes& s) {
  const int64_t pixels = s.out.area();
  const int64_t work = s.batch * pixels + 1;
  parallel_ranges(s.out_channels, kGrain / work + 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      double sum = 0;
      for (int64_t n = 0; n < s.batch; ++n) {
        const T* plane = dy + (n * s.out_channels + k) * pixels;
        sum += blocked_sum<T>(pixels, [=](int64_t i, int lanes) { return load(plane + i, lanes); });
      }
      dbias[k] = static_cast<T>(sum);
    }
  });
}

template <typename T>
bool all_finite(const T* p, int64_t n) {
  const Workspace<bool> finite(ceil_div(n, kGrain));
  parallel_ranges(n, kGrain, [&](int64_t begin, int64_t end) {
    Vec<T> zeros = zero<T>();  // v - v is 0 or NaN
    for_each_vec<T>(end - begin, [&](int64_t i, int lanes) {
      const Vec<T> v = load(p + begin + i, lanes);
      zeros += v - v;
    });
    finite.data()[begin / kGrain] = reduce_add(zeros) == 0;
  });
  bool all = true;
  for (int64_t i = 0; i < ceil_div(n, kGrain); ++i) all &= finite.data()[i];
  return all;
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dKernels, conv2d_kernels, forward<T>, input_gradient<T>,
                      bias_gradient<T>, all_finite<T>)

}  // namespace fastdl::FASTDL_ISA
