// y[n, k, p] = bias[k] + sum_{c, i, j} weight[k, c, i, j] x[n, c, p * stride + (i, j) * dilation]
//
// Direct convolution of few channels: lanes run along the pixels, across the ends of rows, and
// weights are broadcast. For that a block copies its band of x once for each column of the window
// (PixelLines), so that what a tap reads for consecutive outputs lies in a line. The sums of up to
// 8 output channels x some vectors of pixels fill the registers, and go from there into y.
//
// The gradient of x for stride 1 is the convolution of dy with the weight turned round.
#include "core/apply_epilogue.h"
#include "core/gemm.h"
#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kDepth = 160;          // products summed in registers: bounds the error
constexpr int64_t kBytes = 192 * 1024;   // of a band's copies
constexpr int64_t kMinBlocks = 8;        // with fewer images, planes are cut into more bands
constexpr double kBlockFlops = 5e5;      // some 3 us
constexpr int64_t kGrain = 16384;        // elements to pack
constexpr int64_t kStream = 16ll << 20;  // bytes of y that are written past the caches

// What tap (i, j) reads of a channel for output p of a band lies at offset(i, j) + p.
template <typename T>
class PixelLines {
 public:
  PixelLines(const Conv2dSizes& s, HeightWidth band)
      : s_(s),
        places_(band.h, s.kernel.h, s.stride.h, s.dilation.h),
        rows_(s, band),
        width_(band.w),
        apart_(places_.out_step),
        run_(ceil_div(places_.size, apart_)) {}

  int64_t channel() const { return s_.kernel.w * apart_ * run_ * width_; }
  int64_t offset(int64_t i, int64_t j) const {
    const int64_t row = i * places_.tap_step;
    return ((j * apart_ + row % apart_) * run_ + row / apart_) * width_;
  }
  // Elements for `channels` of them: vectors are read and written whole.
  int64_t scratch(int64_t channels) const {
    return channels * channel() + rows_.scratch(channels) + Vec<T>::lanes;
  }
  // Lays out what the band at `first` reads of planes of x.
  void fill(T* scratch, const T* x, int64_t plane, int64_t channels, HeightWidth first) const {
    if (s_.stride.w > 2) return fill_apart(scratch, x, plane, channels, first);
    for (int64_t c = 0; c < channels; ++c) {
      T* const to = scratch + c * channel();
      s_.stride.w == 1 ? fill<1>(to, x + c * plane, first) : fill<2>(to, x + c * plane, first);
    }
  }

 private:
  // Every S-th element of the rows of a plane, zeros where it has none. A vector of each row at a
  // time: the masks are the same for all, and what columns of the window share is in L1.
  template <int S>
  void fill(T* to, const T* x, HeightWidth first) const {
    const int64_t top = first.h * s_.stride.h - s_.padding.h;
    for_each_vec<T>(width_, [&](int64_t w, int lanes) {
      for (int64_t j = 0; j < s_.kernel.w; ++j) {
        const int64_t column = S * (first.w + w) + j * s_.dilation.w - s_.padding.w;
        const Mask<T> inside = lanes_inside<T>(column, s_.in.w);
        const Mask<T> beyond = lanes_inside<T>(column + Vec<T>::lanes, s_.in.w);
        for (int64_t i = 0; i < apart_; ++i) {
          T* line = to + (j * apart_ + i) * run_ * width_ + w;
          for (int64_t place = i; place < places_.size; place += apart_, line += width_) {
            const int64_t h = top + places_.element(place);
            Vec<T> v = zero<T>();
            if (h >= 0 && h < s_.in.h) {
              const T* const from = x + h * s_.in.w + column;
              v = load(from, inside, v);
              if constexpr (S == 2) {
                v = even_lanes(v, load(from + Vec<T>::lanes, beyond, zero<T>()));
              }
            }
            store(line, v, lanes);
          }
        }
      }
    });
  }
  // Larger strides, by way of rows whose columns lie apart. All are padded before the first is
  // read: a load across two fresh stores waits until both have reached the cache.
  void fill_apart(T* scratch, const T* x, int64_t plane, int64_t channels,
                  HeightWidth first) const {
    const auto padded = [&](int64_t c) {
      return scratch + channels * channel() + Vec<T>::lanes + c * rows_.plane();
    };
    for (int64_t c = 0; c < channels; ++c) rows_.fill(padded(c), x + c * plane, first);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t j = 0; j < s_.kernel.w; ++j) {
        copy(scratch + c * channel() + j * apart_ * run_ * width_, padded(c) + rows_.columns()[j]);
      }
    }
  }
  void copy(T* to, const T* column) const {
    const int64_t width = width_, length = rows_.row_length(), step = apart_ * length;
    const T* const end = column + rows_.plane();
    for (int64_t first = 0; first < apart_; ++first) {
      T* line = to + first * run_ * width;
      for (const T* from = column + first * length; from < end; from += step, line += width) {
        for (int64_t w = 0; w < width; w += Vec<T>::lanes) store(line + w, load(from + w));
      }
    }
  }

  Conv2dSizes s_;
  TapAxis places_;
  TapRows<T> rows_;
  int64_t width_;
  int64_t apart_, run_;  // rows that outputs below each other read, and how many of these
};

template <typename T>
struct PixelTile {
  static constexpr int max_channels = GemmTile<T>::rows;
  // The sums, a vector of each kind of pixels and a weight fill the registers.
  static constexpr int vectors(int channels) {
    const int fit = (kVecRegisters - 1) / (channels + 1);
    return fit < 8 ? fit : 8;
  }
};

// Where a tile goes: to `channels` planes of y, the last vector of each with `last` elements.
template <typename T>
struct Results {
  T* y;
  int64_t plane;
  int channels, last;
  const T* bias;
  bool add, past_caches;
};

// y[k, v] (+)= sum_q weight[q, k] data[offsets[q] + v] for K channels and V vectors of pixels; rows
// of the weight are of max_channels.
template <typename T, int K, int V>
__attribute__((noinline)) void pixel_tile(const Results<T>& to, const T* data,
                                          const int64_t* offsets, const T* weight, int64_t depth) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> sum[K][V];
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[k][v] = zero<T>();
  }
#pragma GCC unroll 1
  for (int64_t q = 0; q < depth; ++q) {
    const T* from = data + offsets[q];
    Vec<T> x[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) x[v] = load(from + v * lanes);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const Vec<T> w = broadcast(weight[q * PixelTile<T>::max_channels + k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[k][v] = fma(w, x[v], sum[k][v]);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) {
    if (k >= to.channels) break;
    T* y = to.y + k * to.plane;
    const Vec<T> bias = broadcast(to.bias ? to.bias[k] : T(0));
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const int n = v == V - 1 ? to.last : lanes;
      const Vec<T> result = (to.add ? load(y + v * lanes, n) : bias) + sum[k][v];
      if (to.past_caches && n == lanes) {
        stream(y + v * lanes, result);
      } else {
        store(y + v * lanes, result, n);
      }
    }
  }
}

template <typename T>
using TileFunction = void (*)(const Results<T>&, const T*, const int64_t*, const T*, int64_t);

template <typename T, int K = PixelTile<T>::max_channels, int V = PixelTile<T>::vectors(K)>
TileFunction<T> tile_of(int64_t channels, int64_t vectors) {
  if (channels == K && vectors == V) return pixel_tile<T, K, V>;
  if constexpr (V > 1) {
    if (channels == K) return tile_of<T, K, V - 1>(channels, vectors);
  }
  if constexpr (K > 1) {
    return tile_of<T, K - 1>(channels, vectors);
  }
  return nullptr;
}

template <typename T>
class Convolution {
 public:
  // pack(strip, group, k, rows) packs the weights of `rows` output channels from k on.
  template <typename Pack>
  Convolution(T* y, const T* x, const T* bias, const Conv2dSizes& s, bool turned,
              const Epilogue<T>& epilogue, Pack&& pack)
      : y_(y),
        x_(x),
        bias_(bias),
        s_(s),
        epilogue_(epilogue),
        strips_(ceil_div(s.group_out_channels(), PixelTile<T>::max_channels)),
        width_(ceil_div(s.group_out_channels(), strips_)),
        chunk_(larger(smaller(kDepth / s.kernel.area(), s.group_channels()), 1)),
        bands_(s.out, outputs(s)),
        lines_(s, bands_.size),
        strip_size_(PixelTile<T>::max_channels * (s.taps() + Vec<T>::lanes)),
        packed_(s.groups * strips_ * strip_size_),
        offsets_(chunk_ * s.kernel.area()),
        past_caches_(epilogue.empty() && chunk_ == s.group_channels() &&
                     s.out.area() % Vec<T>::lanes == 0 &&
                     reinterpret_cast<uintptr_t>(y) % sizeof(Vec<T>) == 0 &&
                     s.batch * s.out_channels * s.out.area() * int64_t{sizeof(T)} >= kStream) {
    const int64_t area = s.kernel.area();
    for (int64_t q = 0; q < chunk_ * area; ++q) {
      const int64_t tap = turned ? area - 1 - q % area : q % area;
      offsets_.data()[q] =
          q / area * lines_.channel() + lines_.offset(tap / s.kernel.w, tap % s.kernel.w);
    }
    for (int64_t v = 1; v <= PixelTile<T>::vectors(width_); ++v) tiles_[v] = tile_of<T>(width_, v);
    parallel_ranges(s.groups * strips_, kGrain / strip_size_ + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t k = i % strips_ * width_;
        pack(packed_.data() + i * strip_size_, i / strips_, k,
             static_cast<int>(smaller(width_, s.group_out_channels() - k)));
      }
    });
  }

  void run() const {
    const int64_t planes = s_.batch * s_.groups, channels = s_.group_channels();
    const double flops = 2 * static_cast<double>(s_.group_out_channels() * (s_.taps() + 1)) *
                         static_cast<double>(bands_.size.area());
    parallel_ranges(planes * bands_.count, static_cast<int64_t>(kBlockFlops / flops) + 1,
                    [&](int64_t begin, int64_t end) {
                      const Workspace<T> copies(lines_.scratch(channels));
                      for (int64_t i = begin; i < end; ++i) {
                        run(i % planes, i / planes, copies.data());
                      }
                    });
  }

 private:
  // Of a band: its copies fit in L2, and there are enough bands for all threads, if that pays.
  static int64_t outputs(const Conv2dSizes& s) {
    const int64_t planes = s.batch * s.groups;
    const int64_t reads = s.group_channels() * s.kernel.w * smaller(s.stride.h, s.kernel.h);
    const int64_t fit = kBytes / (reads * int64_t{sizeof(T)});
    const double flops = 2 * static_cast<double>(s.group_out_channels() * s.taps()) *
                         static_cast<double>(s.out.area());
    const int64_t share =
        larger(ceil_div(s.out.area(), ceil_div(kMinBlocks, planes)),
               static_cast<int64_t>(kBlockFlops / flops * static_cast<double>(s.out.area())));
    return larger(smaller(fit, share), 2 * PixelTile<T>::vectors(1) * Vec<T>::lanes);
  }

  // A band of the outputs of an image's group.
  void run(int64_t image, int64_t band, T* copies) const {
    const int64_t outs = s_.group_out_channels(), channels = s_.group_channels();
    lines_.fill(copies, x_ + image * channels * s_.in.area(), s_.in.area(), channels,
                bands_.first(band));
    const int64_t count = bands_.outputs(band), vectors = ceil_div(count, Vec<T>::lanes);
    const int64_t tiles = ceil_div(vectors, PixelTile<T>::vectors(width_));
    const T* bias = bias_ ? bias_ + image % s_.groups * outs : nullptr;
    T* y = y_ + image * outs * s_.out.area() + bands_.offset(band);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t begin = vectors * i / tiles, end = vectors * (i + 1) / tiles;
      const int64_t p = begin * Vec<T>::lanes, n = smaller(end * Vec<T>::lanes, count) - p;
      const int64_t last = n - (end - begin - 1) * Vec<T>::lanes;
      for (int64_t k = 0; k < outs; k += width_) {
        const int64_t rows = smaller(width_, outs - k);
        T* const at = y + k * s_.out.area() + p;
        const bool aligned = reinterpret_cast<uintptr_t>(at) % sizeof(Vec<T>) == 0;
        Results<T> to{at,
                      s_.out.area(),
                      static_cast<int>(rows),
                      static_cast<int>(last),
                      bias ? bias + k : nullptr,
                      false,
                      past_caches_ && aligned};
        const T* weight = packed_.data() + (image % s_.groups * strips_ + k / width_) * strip_size_;
        for (int64_t c = 0; c < channels; c += chunk_) {
          const int64_t depth = smaller(chunk_, channels - c) * s_.kernel.area();
          to.add = c > 0;
          tiles_[end - begin](to, copies + c * lines_.channel() + p, offsets_.data(),
                              weight + c * s_.kernel.area() * PixelTile<T>::max_channels, depth);
        }
        apply_epilogue(at, s_.out.area(), rows, n, epilogue_.at(at - y_));
      }
    }
  }

  T* y_;
  const T *x_, *bias_;
  const Conv2dSizes& s_;
  Epilogue<T> epilogue_;
  int64_t strips_, width_;  // of output channels
  int64_t chunk_;           // input channels summed up in registers
  Bands bands_;
  PixelLines<T> lines_;
  int64_t strip_size_;  // with room for the last vector of pack_strip
  Workspace<T> packed_;
  Workspace<int64_t> offsets_;
  bool past_caches_;
  TileFunction<T> tiles_[9];
};

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  const auto pack = [&](T* strip, int64_t g, int64_t k, int rows) {
    const T* from = weight + (g * s.group_out_channels() + k) * s.taps();
    pack_strip<PixelTile<T>::max_channels>(strip, Matrix<T>{from, s.taps(), 1}, rows, s.taps());
  };
  Convolution<T>(y, x, bias, s, false, epilogue, pack).run();
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  constexpr int64_t kRows = PixelTile<T>::max_channels;
  Conv2dSizes t = s;
  t.channels = s.out_channels;
  t.out_channels = s.channels;
  t.in = s.out;
  t.out = s.in;
  t.padding = {s.reach().h - s.padding.h, s.reach().w - s.padding.w};
  const int64_t area = s.kernel.area(), outs = s.group_out_channels();
  const auto pack = [&](T* strip, int64_t g, int64_t c, int rows) {
    for (int64_t k = 0; k < outs; ++k) {  // in order: each overwrites what the last left behind it
      const T* from = weight + (g * outs + k) * s.taps() + c * area;
      pack_strip<kRows>(strip + k * area * kRows, Matrix<T>{from, area, 1}, rows, area);
    }
  };
  Convolution<T>(dx, dy, nullptr, t, true, {}, pack).run();
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dPixelsKernels, conv2d_pixels_kernels, forward<T>, input_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
