// conv2d as a matrix product whose factors are gathered from the images when they are needed
// (implicit GEMM), a problem per group. C lies along the pixels where images do (NCHW), and along
// the channels otherwise, so that its elements are stored side by side. Bound by the arithmetic
// but for 1x1 windows of few channels.
#include "cuda/conv2d.h"

#include "cuda/channel_sums.h"
#include "cuda/divider.h"
#include "cuda/epilogue.h"
#include "cuda/mma_gemm.h"

namespace fastdl::cuda {
namespace {

// Images, or weights as images of their input channels: elements from one to the next.
struct Strides {
  int64_t n, c, h, w;
};

Strides strides_of(const Tensor& x, int64_t channels, HeightWidth plane) {
  const int64_t c = channels, area = plane.area();
  return x.channels_last ? Strides{area * c, 1, plane.w * c, c}
                         : Strides{c * area, area, plane.w, 1};
}

// The sizes as kernels need them: what one group has.
struct Window {
  int in_h, in_w, out_h, out_w, kernel_h, kernel_w;
  int stride_h, stride_w, dilation_h, dilation_w, padding_h, padding_w;
  int channels, outs;  // of a group

  explicit Window(const Conv2dSizes& s)
      : in_h(to_int(s.in.h)),
        in_w(to_int(s.in.w)),
        out_h(to_int(s.out.h)),
        out_w(to_int(s.out.w)),
        kernel_h(to_int(s.kernel.h)),
        kernel_w(to_int(s.kernel.w)),
        stride_h(to_int(s.stride.h)),
        stride_w(to_int(s.stride.w)),
        dilation_h(to_int(s.dilation.h)),
        dilation_w(to_int(s.dilation.w)),
        padding_h(to_int(s.padding.h)),
        padding_w(to_int(s.padding.w)),
        channels(to_int(s.group_channels())),
        outs(to_int(s.group_out_channels())) {
    to_int(s.in.h + s.padding.h);
    to_int(s.in.w + s.padding.w);
    to_int(s.taps());
    to_int(s.group_out_channels() * s.kernel.area());
    to_int(s.in.area());
    to_int(s.out.area());
  }

 private:
  // Sizes along one axis fit 31 bits; only products of theirs with others do not.
  static int to_int(int64_t size) {
    fastdl::check(size <= INT32_MAX, "conv2d", "a size of ", size, " is too large for a GPU");
    return static_cast<int>(size);
  }
};

// By the pixels of a plane; Window has checked that they fit.
inline Divider plane_divider(int h, int w) { return Divider(int64_t{h} * w); }

// A pixel of an image; its channels begin at `offset`, and its row and column, without what lies
// before the padding, are h and w.
struct Pixel {
  int64_t offset;
  int h, w;
};

// A channel, and a tap of the window.
struct Tap {
  int64_t channel;
  int h, w;
};

// Taps counted channel by channel, or, where channels are neighbours, tap by tap.
struct TapOrder {
  bool channels_last;
  Divider second, third;

  TapOrder(const Window& w, int channels, bool channels_last)
      : channels_last(channels_last),
        second(channels_last ? w.kernel_w : w.kernel_h),
        third(channels_last ? std::max(channels, 1) : w.kernel_w) {}

  __device__ Tap tap(int64_t index) const {
    auto first = static_cast<unsigned>(index);  // a window's taps are fewer than 2^31
    const auto k = static_cast<int>(third.split(first)), j = static_cast<int>(second.split(first));
    if (channels_last) return {k, static_cast<int>(first), j};
    return {first, j, k};
  }
};

// Pixels of images, counted row by row.
struct PixelOrder {
  Divider h, w;

  PixelOrder(int h, int w) : h(h), w(w) {}
  // Returns the image.
  __device__ int64_t split(int64_t index, int& row, int& col) const {
    col = static_cast<int>(w.split(index));
    row = static_cast<int>(h.split(index));
    return index;
  }
};

// x under the windows: pixels are those of y.
template <typename T>
struct Patches {
  const T* images;
  Strides strides;
  Window window;
  bool channels_last;
  TapOrder taps = {window, window.channels, channels_last};
  PixelOrder pixels = {window.out_h, window.out_w};

  __device__ Pixel pixel(int64_t index) const {
    int h, w;
    const int64_t n = pixels.split(index, h, w);
    return {n * strides.n, h * window.stride_h - window.padding_h,
            w * window.stride_w - window.padding_w};
  }
  __device__ Tap tap(int64_t index) const {
    const Tap t = taps.tap(index);
    return {t.channel * strides.c, t.h * window.dilation_h, t.w * window.dilation_w};
  }
  // Null in the padding.
  __device__ const T* at(const Pixel& p, const Tap& t) const {
    const int h = p.h + t.h, w = p.w + t.w;
    if (h < 0 || h >= window.in_h || w < 0 || w >= window.in_w) return nullptr;
    return images + p.offset + t.channel + h * strides.h + w * strides.w;
  }
  __device__ int64_t group(int64_t g) const { return g * channels() * strides.c; }
  __host__ __device__ int channels() const { return window.channels; }
};

// dy by the windows that reach a pixel of x.
template <typename T>
struct Reached {
  const T* images;  // dy
  Strides strides;
  Window window;
  bool channels_last;
  TapOrder taps = {window, window.outs, channels_last};
  PixelOrder pixels = {window.in_h, window.in_w};
  Divider stride_h = Divider(window.stride_h), stride_w = Divider(window.stride_w);

  __device__ Pixel pixel(int64_t index) const {
    int h, w;
    const int64_t n = pixels.split(index, h, w);
    return {n * strides.n, h + window.padding_h, w + window.padding_w};
  }
  __device__ Tap tap(int64_t index) const {
    const Tap t = taps.tap(index);
    return {t.channel * strides.c, t.h * window.dilation_h, t.w * window.dilation_w};
  }
  // Null where no window that reaches the pixel has it under that tap.
  __device__ const T* at(const Pixel& p, const Tap& t) const {
    const int h = p.h - t.h, w = p.w - t.w;
    if (h < 0 || w < 0) return nullptr;
    auto out_h = static_cast<unsigned>(h), out_w = static_cast<unsigned>(w);
    if (stride_h.split(out_h) != 0 || stride_w.split(out_w) != 0) return nullptr;
    if (out_h >= static_cast<unsigned>(window.out_h)) return nullptr;
    if (out_w >= static_cast<unsigned>(window.out_w)) return nullptr;
    return images + p.offset + t.channel + out_h * strides.h + out_w * strides.w;
  }
  __device__ int64_t group(int64_t g) const { return g * channels() * strides.c; }
  __host__ __device__ int channels() const { return window.outs; }
};

// Gathered images as a factor: its lines are pixels and its terms taps, or, kTapLines, the other
// way round.
template <typename T, typename Images, bool kTapLines>
struct GatheredLines {
  using Element = T;
  using Line = std::conditional_t<kTapLines, Tap, Pixel>;
  using Term = std::conditional_t<kTapLines, Pixel, Tap>;
  static constexpr bool kPacksTerms = !kTapLines, kPacksLines = kTapLines;
  Images images;
  bool along_k;

  __device__ Line line(int64_t g, int64_t i) const {
    if constexpr (kTapLines) {
      Tap t = images.tap(i);
      t.channel += images.group(g);
      return t;
    } else {
      Pixel p = images.pixel(i);
      p.offset += images.group(g);
      return p;
    }
  }
  __device__ Term term(int64_t k) const {
    if constexpr (kTapLines) {
      return images.pixel(k);
    } else {
      return images.tap(k);
    }
  }
  __device__ T get(const Line& line, const Term& term) const {
    const T* const p = pack(line, term);
    return p ? *p : T{};
  }
  __device__ const T* pack(const Line& line, const Term& term) const {
    if constexpr (kTapLines) {
      return images.at(term, line);
    } else {
      return images.at(line, term);
    }
  }
  __device__ const T* any() const { return images.images; }
  // Channels are a pack: taps count them together.
  bool packs(int64_t, int64_t) const {
    constexpr int kPack = kPackSize<T>;
    const Images& x = images;
    return x.channels_last && x.channels() % kPack == 0 && x.strides.w % kPack == 0 &&
           is_aligned(x.images);
  }
};
template <typename T, typename Images>
using PixelLines = GatheredLines<T, Images, false>;
template <typename T, typename Images>
using TapLines = GatheredLines<T, Images, true>;

// The weight (outs of all groups, channels of a group, window). Lines are output channels and terms
// the taps of input channels, or, for the gradient of x, the other way round.
template <typename T, bool kToInput>
struct WeightLines {
  using Element = T;
  using Line = int64_t;
  using Term = int64_t;
  static constexpr bool kPacksTerms = !kToInput, kPacksLines = kToInput;
  const T* weight;
  Strides strides;
  Window window;
  bool channels_last;  // the order of the taps: that of the images
  bool along_k;
  TapOrder taps = {window, kToInput ? window.outs : window.channels, channels_last};

  __device__ Line line(int64_t g, int64_t i) const {
    return kToInput ? g * window.outs * strides.n + i * strides.c
                    : (g * window.outs + i) * strides.n;
  }
  __device__ Term term(int64_t k) const {
    const Tap t = taps.tap(k);
    return t.channel * (kToInput ? strides.n : strides.c) + t.h * strides.h + t.w * strides.w;
  }
  __device__ T get(Line line, Term term) const { return weight[line + term]; }
  __device__ const T* pack(Line line, Term term) const { return weight + line + term; }
  __device__ const T* any() const { return weight; }
  bool packs(int64_t, int64_t) const {
    return strides.c == 1 && channels_last && window.channels % kPackSize<T> == 0 &&
           is_aligned(weight);
  }
};

// dy with the channels of a group as lines, the pixels as terms.
template <typename T>
struct ChannelLines {
  using Element = T;
  using Line = int64_t;
  using Term = int64_t;
  static constexpr bool kPacksTerms = false, kPacksLines = true;
  const T* dy;
  Strides strides;
  Window window;
  bool along_k;
  Divider area = plane_divider(window.out_h, window.out_w);

  __device__ Line line(int64_t g, int64_t i) const { return (g * window.outs + i) * strides.c; }
  __device__ Term term(int64_t k) const {
    const int64_t w = area.split(k);  // rows of pixels lie one after the other
    return k * strides.n + w * strides.w;
  }
  __device__ T get(Line line, Term term) const { return dy[line + term]; }
  __device__ const T* pack(Line line, Term term) const { return dy + line + term; }
  __device__ const T* any() const { return dy; }
  bool packs(int64_t, int64_t) const {
    constexpr int kPack = kPackSize<T>;
    return !along_k && window.outs % kPack == 0 && strides.w % kPack == 0 && is_aligned(dy);
  }
};

// Images as a result: (channel, pixel), or transposed.
template <typename T, bool kTransposed>
struct ImageResult {
  Finish<T> finish;
  Strides strides;
  Divider area;
  int channels;  // of a group
  bool packs =
      finish.aligned() && (kTransposed ? strides.c == 1 && channels % 8 == 0 && strides.w % 8 == 0
                                       : strides.w == 1 && area.divisor % 8 == 0);

  __device__ void put(int64_t g, int64_t row, int64_t col, Compute<T> sum) const {
    const int64_t c = channel(g, row, col);
    finish.put(offset(c, row, col), c, sum);
  }
  template <int N>
  __device__ void put_pack(int64_t g, int64_t row, int64_t col, const Compute<T> (&sums)[N]) const {
    const int64_t c = channel(g, row, col);
    finish.put_pack(offset(c, row, col), c, kTransposed ? 1 : 0, sums);
  }

 private:
  __device__ int64_t channel(int64_t g, int64_t row, int64_t col) const {
    return g * channels + (kTransposed ? col : row);
  }
  __device__ int64_t offset(int64_t channel, int64_t row, int64_t col) const {
    int64_t n = kTransposed ? row : col;
    const int64_t pixel = area.split(n);
    return n * strides.n + channel * strides.c + pixel * strides.w;
  }
};

// The gradient of x. The product takes windows that do not reach a pixel for zeros, which an inf or
// NaN of the weight turns into NaN: such a sum is computed again, of those that do.
template <typename T, bool kTransposed>
struct InputGradientResult {
  ImageResult<T, kTransposed> result;
  PixelLines<T, Reached<T>> reached;
  WeightLines<T, true> weights;
  int64_t terms;
  bool packs = result.packs;

  template <int N>
  __device__ void put_pack(int64_t g, int64_t row, int64_t col, const Compute<T> (&sums)[N]) const {
    bool finite = true;
#pragma unroll
    for (int i = 0; i < N; ++i) finite = finite && isfinite(sums[i]);
    if (finite) return result.put_pack(g, row, col, sums);
#pragma unroll
    for (int i = 0; i < N; ++i) put(g, row, col + i, sums[i]);
  }
  __device__ void put(int64_t g, int64_t row, int64_t col, Compute<T> sum) const {
    if (!isfinite(sum)) sum = exact(g, kTransposed ? row : col, kTransposed ? col : row);
    result.put(g, row, col, sum);
  }
  __device__ FASTDL_OUT_OF_LINE Compute<T> exact(int64_t g, int64_t pixel, int64_t channel) const {
    const Pixel p = reached.line(g, pixel);
    const int64_t line = weights.line(g, channel);
    Compute<T> sum = 0;
    for (int64_t k = 0; k < terms; ++k) {
      const Tap t = reached.term(k);
      const T* const y = reached.pack(p, t);
      if (y) sum += widen(*y) * widen(weights.get(line, weights.term(k)));
    }
    return sum;
  }
};

template <typename T>
struct WeightResult {
  T* dweight;
  Strides strides;
  TapOrder taps;
  int outs;
  bool packs;

  __device__ void put(int64_t g, int64_t row, int64_t col, Compute<T> sum) const {
    const Tap t = taps.tap(col);
    dweight[(g * outs + row) * strides.n + t.channel * strides.c + t.h * strides.h +
            t.w * strides.w] = narrow<T>(sum);
  }
  template <int N>
  __device__ void put_pack(int64_t g, int64_t row, int64_t col, const Compute<T> (&sums)[N]) const {
    store_packs(dweight + (g * outs + row) * strides.n + col, sums);
  }
};

}  // namespace

void Conv2d::forward(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor* bias,
                     const Conv2dSizes& s, Activation activation, const Tensor* residual) const {
  const Window window(s);
  const bool last = x.channels_last;
  dispatch(x.dtype, [&]<typename T>() {
    const PixelLines<T, Patches<T>> patches{
        {x.ptr<const T>(), strides_of(x, s.channels, s.in), window, last}, last};
    const WeightLines<T, false> weights{weight.ptr<const T>(),
                                        strides_of(weight, s.group_channels(), s.kernel), window,
                                        last, weight.channels_last == last || s.kernel.area() == 1};
    const Finish<T> finish{y.ptr<T>(), ptr_or_null<const T>(bias), ptr_or_null<const T>(residual),
                           activation};
    const Strides to = strides_of(y, s.out_channels, s.out);
    const Divider plane = plane_divider(window.out_h, window.out_w);
    const int64_t pixels = s.batch * s.out.area(), outs = s.group_out_channels();
    if (last) {
      gemm(device, patches, weights, ImageResult<T, true>{finish, to, plane, window.outs},
           {.m = pixels, .n = outs, .k = s.taps(), .problems = s.groups});
    } else {
      gemm<false>(device, weights, patches, ImageResult<T, false>{finish, to, plane, window.outs},
                  {.m = outs, .n = pixels, .k = s.taps(), .problems = s.groups});
    }
  });
}

void Conv2d::input_gradient(const Tensor& dx, const Tensor& dy, const Tensor& weight,
                            const Conv2dSizes& s) const {
  const Window window(s);
  const bool last = dx.channels_last;
  dispatch(dx.dtype, [&]<typename T>() {
    const PixelLines<T, Reached<T>> reached{
        {dy.ptr<const T>(), strides_of(dy, s.out_channels, s.out), window, last}, last};
    const WeightLines<T, true> weights{weight.ptr<const T>(),
                                       strides_of(weight, s.group_channels(), s.kernel), window,
                                       last, false};
    const Finish<T> finish{dx.ptr<T>(), nullptr, nullptr, Activation::none};
    const Strides to = strides_of(dx, s.channels, s.in);
    const Divider plane = plane_divider(window.in_h, window.in_w);
    const int64_t pixels = s.batch * s.in.area(), channels = s.group_channels();
    const int64_t terms = s.group_out_channels() * s.kernel.area();
    if (last) {
      gemm(device, reached, weights,
           InputGradientResult<T, true>{
               {finish, to, plane, window.channels}, reached, weights, terms},
           {.m = pixels, .n = channels, .k = terms, .problems = s.groups});
    } else {
      gemm<false>(device, weights, reached,
                  InputGradientResult<T, false>{
                      {finish, to, plane, window.channels}, reached, weights, terms},
                  {.m = channels, .n = pixels, .k = terms, .problems = s.groups});
    }
  });
}

void Conv2d::weight_gradient(const Tensor& dweight, const Tensor& dy, const Tensor& x,
                             const Conv2dSizes& s) const {
  const Window window(s);
  const bool last = x.channels_last;
  dispatch(x.dtype, [&]<typename T>() {
    const ChannelLines<T> channels{dy.ptr<const T>(), strides_of(dy, s.out_channels, s.out), window,
                                   !dy.channels_last};
    const TapLines<T, Patches<T>> patches{
        {x.ptr<const T>(), strides_of(x, s.channels, s.in), window, last}, !last};
    const bool in_order = dweight.channels_last == last || s.kernel.area() == 1;
    const WeightResult<T> result{dweight.ptr<T>(),
                                 strides_of(dweight, s.group_channels(), s.kernel),
                                 {window, window.channels, last},
                                 window.outs,
                                 in_order && s.taps() % 8 == 0 && is_aligned(dweight.data)};
    const GemmSizes sizes{.m = s.group_out_channels(),
                          .n = s.taps(),
                          .k = s.batch * s.out.area(),
                          .problems = s.groups};
    if (last) return gemm(device, channels, patches, result, sizes);
    gemm<false>(device, channels, patches, result, sizes);
  });
}

void Conv2d::bias_gradient(const Tensor& dbias, const Tensor& dy, const Conv2dSizes& s) const {
  const ChannelSums sums{device};
  if (dy.channels_last) {
    sums.sum(dbias, dy, s.batch * s.out.area(), s.out_channels, 1);
  } else {
    sums.sum(dbias, dy, s.batch, s.out_channels, s.out.area());
  }
}

}  // namespace fastdl::cuda
