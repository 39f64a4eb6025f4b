// Convolution by Winograd's algorithm: F(4x4, 3x3), F(2x2, 3x3) and F(2x2, 5x5) take 4, 2.25
// and 2.8 times fewer products than the sum has, F(4x4, 3x3) of stride 2 1.8 times.
//
//   V = B^T d B of each tile d of x, U = G g G^T of each weight g,
//   M[point] = V[point] U[point], (tiles x K) = (tiles x C) (C x K), y = A^T M A of each tile
//
// Everything between x and y happens in blocks of up to 64 tiles by panels of 64 channels, which
// stay in L2. Vectors run along channels: images are transposed on their way in and out, so any
// plane and any tile fills the lanes. With many tiles the weights are transformed once, and each
// block of tiles goes through all of them. With few tiles or large weights it is the other way
// round: x is transformed once, and each 64 output channels go through all tiles.
//
// The gradient of x is the convolution of dy with the weight flipped and transposed; with stride 2,
// 5x5 elements of dy make 8x8 of it.
#include "kernels/conv2d_winograd.h"
#include "core/apply_epilogue.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kMinBlocks = 4;                // of tiles, to divide the work by them
constexpr int64_t kMaxWeightBytes = 12ll << 20;  // of all transformed weights: a third of L3
constexpr int64_t kMaxInputBytes = 16ll << 20;   // of all transformed tiles: half of L3

// weight[k, c, i, j] of a convolution is data[k * out_stride + c * in_stride + 3 i + j] or, for the
// gradient of x, what lies in the opposite place of these nine.
template <typename T>
struct WeightView {
  const T* data;
  int64_t out_stride, in_stride;
  bool flipped;
};

// The work on one call: `s` are the sizes of the convolution that is computed.
template <typename T, typename W>
class Convolution {
 public:
  // packed: what pack() made of the weight, or null.
  Convolution(T* y, const T* x, const WeightView<T>& weight, const T* packed, const T* bias,
              const Conv2dSizes& s, const Epilogue<T>& epilogue)
      : y_(y),
        x_(x),
        weight_(weight),
        packed_(packed),
        bias_(bias),
        epilogue_(epilogue),
        s_(s),
        blocks_(s, s.out, W::outputs, kMaxTiles<W>),
        tile_rows_(blocks_.most_tiles()),
        in_panels_(ceil_div(s.group_channels(), kPanel)),
        out_panels_(ceil_div(s.group_out_channels(), kPanel)) {}

  // Whether all of y is finite.
  bool run() {
    const bool many = blocks_.count >= smaller(kMinBlocks, out_panels_ + 1);
    return many && packed_size() > 0 ? run_by_tiles() : run_by_channels();
  }

  // Elements of the whole transformed weight; 0 if it is too large to be of use.
  int64_t packed_size() const {
    const int64_t elements = s_.groups * out_panels_ * in_panels_ * u_size();
    return elements * int64_t{sizeof(T)} <= kMaxWeightBytes ? elements : 0;
  }

  // U, panel[group][output channels][input channels].
  void pack(T* u) const {
    parallel_for(s_.groups * out_panels_ * in_panels_, [&](int64_t i) {
      const Workspace<T> scratch(weight_scratch());
      transform_weight(u + i * u_size(), i / in_panels_ / out_panels_, i / in_panels_ % out_panels_,
                       i % in_panels_, scratch.data());
    });
  }

 private:
  static constexpr int lanes = Vec<T>::lanes, size = W::size, points = size * size;

  // Elements of a panel of U, of V and of M.
  static int64_t u_size() { return points * point_stride<T>(kPanel); }
  int64_t v_size() const { return points * point_stride<T>(tile_rows_); }
  static int64_t weight_scratch() { return (kPanel * W::taps * W::taps + lanes) * lanes; }
  int64_t in_scratch() const { return TileRows<T, Inputs<W>>::scratch(blocks_); }
  int64_t out_scratch() const { return W::outputs * out_row(); }
  int64_t out_row() const { return (columns(blocks_.bands.size.w) + lanes) * lanes; }
  // Of the outputs that a row of tiles covers.
  int64_t columns(int64_t tiles) const { return round_up(tiles, s_.dilation.w) * W::outputs; }
  int64_t depth(int64_t in_panel) const {
    return smaller(kPanel, s_.group_channels() - in_panel * kPanel);
  }
  int64_t width(int64_t out_panel) const {
    return smaller(kPanel, s_.group_out_channels() - out_panel * kPanel);
  }

  bool run_by_tiles() {
    const Workspace<T> transformed(packed_ ? 0 : packed_size());
    if (!packed_) pack(transformed.data());
    const T* u = packed_ ? packed_ : transformed.data();
    const Workspace<bool> finite(s_.groups * blocks_.count);
    parallel_for(s_.groups * blocks_.count, [&](int64_t i) {
      const int64_t g = i / blocks_.count, block = i % blocks_.count;
      const int64_t scratch_size = larger(in_scratch(), out_scratch());
      const Workspace<T> memory(in_huge_page<T>((in_panels_ + 1) * v_size() + scratch_size));
      T *const v = memory.data(), *const m = v + in_panels_ * v_size(),
               *const scratch = m + v_size();
      for (int64_t in = 0; in < in_panels_; ++in) {
        transform_x(v + in * v_size(), g, block, in, scratch);
      }
      bool all = true;
      for (int64_t out = 0; out < out_panels_; ++out) {
        for (int64_t in = 0; in < in_panels_; ++in) {
          multiply(m, v + in * v_size(), u + ((g * out_panels_ + out) * in_panels_ + in) * u_size(),
                   block, out, in);
        }
        all &= transform_output(m, g, block, out, scratch);
      }
      finite.data()[i] = all;
    });
    return all_of(finite.data(), s_.groups * blocks_.count);
  }

  bool run_by_channels() {
    bool all = true;
    const int64_t fit = kMaxInputBytes / (in_panels_ * v_size() * int64_t{sizeof(T)});
    const int64_t most = larger(1, fit);
    const Workspace<T> v(smaller(most, blocks_.count) * in_panels_ * v_size());
    const Workspace<bool> finite(out_panels_);
    for (int64_t g = 0; g < s_.groups; ++g) {
      for (int64_t begin = 0; begin < blocks_.count; begin += most) {
        const int64_t blocks = smaller(most, blocks_.count - begin);
        parallel_for(blocks * in_panels_, [&](int64_t i) {
          const Workspace<T> scratch(in_scratch());
          transform_x(v.data() + i * v_size(), g, begin + i / in_panels_, i % in_panels_,
                      scratch.data());
        });
        parallel_for(out_panels_, [&](int64_t out) {
          finite.data()[out] = run_out_panel(v.data(), g, begin, blocks, out);
        });
        all &= all_of(finite.data(), out_panels_);
      }
    }
    return all;
  }

  // One panel of output channels of some blocks of tiles.
  bool run_out_panel(const T* v, int64_t g, int64_t begin, int64_t blocks, int64_t out) const {
    const Workspace<T> u(u_size()), m(blocks * v_size());
    const Workspace<T> scratch(larger(out_scratch(), weight_scratch()));
    for (int64_t in = 0; in < in_panels_; ++in) {
      if (!packed_) transform_weight(u.data(), g, out, in, scratch.data());
      const T* panel =
          packed_ ? packed_ + ((g * out_panels_ + out) * in_panels_ + in) * u_size() : u.data();
      for (int64_t i = 0; i < blocks; ++i) {
        multiply(m.data() + i * v_size(), v + (i * in_panels_ + in) * v_size(), panel, begin + i,
                 out, in);
      }
    }
    bool all = true;
    for (int64_t i = 0; i < blocks; ++i) {
      all &= transform_output(m.data() + i * v_size(), g, begin + i, out, scratch.data());
    }
    return all;
  }

  static bool all_of(const bool* values, int64_t n) {
    bool all = true;
    for (int64_t i = 0; i < n; ++i) all &= values[i];
    return all;
  }

  void transform_x(T* v, int64_t g, int64_t block, int64_t in, T* scratch) const {
    const int64_t plane = s_.in.area();
    transform_tiles<T, W, Inputs<W>>(v, x_ + (g * s_.group_channels() + in * kPanel) * plane,
                                     s_.channels * plane, depth(in), s_.in, s_.padding, blocks_,
                                     block, scratch);
  }

  void transform_weight(T* u, int64_t g, int64_t out, int64_t in, T* scratch) const {
    constexpr int64_t taps = W::taps * W::taps;
    const T* from = weight_.data + g * s_.group_out_channels() * s_.group_channels() * taps +
                    out * kPanel * weight_.out_stride + in * kPanel * weight_.in_stride;
    const int64_t channels = depth(in), outs = width(out);
    const int64_t run = weight_.in_stride == taps ? channels * taps : taps;  // lie in a line
    for (int64_t k = 0; k < round_up(outs, PanelTile<T>::cols); k += lanes) {
      const auto rows = static_cast<int>(larger(0, smaller(lanes, outs - k)));
      for (int64_t i = 0; i < channels * taps; i += run) {
        gather_channels(scratch + i * lanes,
                        from + k * weight_.out_stride + i / taps * weight_.in_stride,
                        weight_.out_stride, rows, run);
      }
      for (int64_t c = 0; c < channels; ++c) {
        transform_window(u + c * kPanel + k, scratch + c * taps * lanes);
      }
    }
  }

  // G g G^T for `lanes` output channels.
  void transform_window(T* to, const T* from) const {
    const int64_t stride = point_stride<T>(kPanel);
    constexpr int taps = W::taps;
    Vec<T> half[taps][size];
#pragma GCC unroll 8
    for (int i = 0; i < taps; ++i) {
      Vec<T> g[taps];
#pragma GCC unroll 8
      for (int j = 0; j < taps; ++j) {
        const int tap = i * taps + j;
        g[j] = load(from + (weight_.flipped ? taps * taps - 1 - tap : tap) * lanes);
      }
      W::weight(half[i], g);
    }
#pragma GCC unroll 16
    for (int j = 0; j < size; ++j) {
      Vec<T> column[taps], point[size];
#pragma GCC unroll 8
      for (int i = 0; i < taps; ++i) column[i] = half[i][j];
      W::weight(point, column);
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) store(to + (i * size + j) * stride, point[i]);
    }
  }

  // M = V U for the first panel of input channels, M += V U for the others.
  void multiply(T* m, const T* v, const T* u, int64_t block, int64_t out, int64_t in) const {
    const int64_t rows = blocks_.tiles(block), stride = point_stride<T>(tile_rows_);
    for (int i = 0; i < points; ++i) {
      multiply_panels<T, false>(m + i * stride, v + i * stride, u + i * point_stride<T>(kPanel),
                                rows, width(out), depth(in), in > 0, stride, stride,
                                point_stride<T>(kPanel));
    }
  }

  // A^T M A of a block's tiles, to y; whether all of it is finite.
  bool transform_output(const T* m, int64_t g, int64_t block, int64_t out, T* scratch) const {
    const int64_t pixels = s_.out.area(), k0 = g * s_.group_out_channels() + out * kPanel;
    Vec<T> zeros = zero<T>();  // 0 v is 0, or NaN if v is not finite
    for_each_vec<T>(width(out), [&](int64_t k, int channels) {
      const Vec<T> bias = bias_ ? load(bias_ + k0 + k, channels) : zero<T>();
      blocks_.for_each_image(
          block, [&](int64_t n, HeightWidth first, HeightWidth tiles, int64_t t) {
            T* plane = y_ + (n * s_.out_channels + k0 + k) * pixels;
            for (int64_t i = 0; i < tiles.h; ++i) {
              for (int64_t j = 0; j < tiles.w; ++j) {
                transform_output_tile(scratch + tile_begin(j, W::outputs, s_.dilation.w) * lanes,
                                      m + (t + i * tiles.w + j) * kPanel + k, bias, zeros);
              }
              const int64_t top = tile_begin(first.h + i, W::outputs, s_.dilation.h);
              const int64_t w = first.w * W::outputs;
              for (int64_t r = 0; r < W::outputs; ++r) {
                const int64_t h = top + r * s_.dilation.h;
                if (h >= s_.out.h) break;
                T* to = plane + h * s_.out.w + w;
                const int64_t count = smaller(columns(tiles.w), s_.out.w - w);
                scatter_channels(to, scratch + r * out_row(), pixels, channels, count);
                apply_epilogue(to, pixels, channels, count, epilogue_.at(to - y_));
              }
            }
          });
    });
    return reduce_add(zeros) == 0;
  }

  void transform_output_tile(T* to, const T* m, Vec<T> bias, Vec<T>& zeros) const {
    constexpr int outputs = W::outputs;
    const int64_t stride = point_stride<T>(tile_rows_), step = s_.dilation.w * lanes;
    Vec<T> half[outputs][size];
#pragma GCC unroll 1
    for (int j = 0; j < size; ++j) {
      Vec<T> column[size], y[outputs];
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) column[i] = load(m + (i * size + j) * stride);
      W::output(y, column);
#pragma GCC unroll 8
      for (int i = 0; i < outputs; ++i) half[i][j] = y[i];
    }
#pragma GCC unroll 1
    for (int i = 0; i < outputs; ++i) {
      Vec<T> y[outputs];
      W::output(y, half[i]);
#pragma GCC unroll 8
      for (int j = 0; j < outputs; ++j) {
        zeros = fma(y[j], zero<T>(), zeros);
        store(to + i * out_row() + j * step, y[j] + bias);
      }
    }
  }

  T* y_;
  const T* x_;
  WeightView<T> weight_;
  const T *packed_, *bias_;
  Epilogue<T> epilogue_;
  Conv2dSizes s_;
  TileBlocks blocks_;
  int64_t tile_rows_, in_panels_, out_panels_;
};

// The convolution of dy that gives dx.
Conv2dSizes transposed(Conv2dSizes s) {
  const Conv2dSizes of = s;
  s.channels = of.out_channels;
  s.out_channels = of.channels;
  s.in = of.out;
  s.out = of.in;
  if (s.stride == HeightWidth{2, 2}) {  // the padding is odd
    s.padding = {(1 - of.padding.h) / 2, (1 - of.padding.w) / 2};
  } else {
    s.padding = {of.reach().h - of.padding.h, of.reach().w - of.padding.w};
  }
  return s;
}

template <typename T, typename W>
bool forward(T* y, const T* x, const T* weight, const T* packed, const T* bias,
             const Conv2dSizes& s, const Epilogue<T>& epilogue) {
  const WeightView<T> view{weight, s.taps(), W::taps * W::taps, false};
  return Convolution<T, W>(y, x, view, packed, bias, s, epilogue).run();
}

template <typename T, typename W>
bool input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  const WeightView<T> view{weight, W::taps * W::taps, s.taps(), true};
  using Transposed = typename W::Transposed;
  return Convolution<T, Transposed>(dx, dy, view, nullptr, nullptr, transposed(s), {}).run();
}

// Of the forward of any images.
template <typename T, typename W>
Convolution<T, W> packer(const T* weight, const Conv2dSizes& s) {
  return {nullptr, nullptr, {weight, s.taps(), W::taps * W::taps, false}, nullptr, nullptr, s, {}};
}

template <typename T, typename W>
int64_t packed_size(const Conv2dSizes& s) {
  return packer<T, W>(nullptr, s).packed_size();
}

template <typename T, typename W>
void pack(T* packed, const T* weight, const Conv2dSizes& s) {
  packer<T, W>(weight, s).pack(packed);
}

template <typename T, typename W>
constexpr WinogradConvolution<T> kKernels{forward<T, W>, input_gradient<T, W>, packed_size<T, W>,
                                          pack<T, W>};

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dWinogradKernels, conv2d_winograd_kernels,
                      {kKernels<T, Winograd<T, 4, 3>>, kKernels<T, Winograd<T, 2, 3>>,
                       kKernels<T, Winograd<T, 2, 5>>, kKernels<T, WinogradStride2<T>>})

}  // namespace fastdl::FASTDL_ISA
