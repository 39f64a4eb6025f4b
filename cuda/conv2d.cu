// conv2d as a matrix product whose factors are gathered from the images when they are needed
// (implicit GEMM), a problem per group; small groups are conv2d_grouped.cu's. C lies along the
// pixels where images do (NCHW), and along the channels otherwise, so that its elements are stored
// side by side. Bound by the arithmetic but for 1x1 windows of few channels.
#include "cuda/conv2d.h"

#include "cuda/channel_sums.h"
#include "cuda/conv2d_grouped.h"
#include "cuda/conv2d_images.h"
#include "cuda/mma_gemm.h"

namespace fastdl::cuda {
namespace {

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
  if (suits_grouped(s)) {
    return Conv2dGrouped{device}.forward(y, x, weight, bias, s, activation, residual);
  }
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
  if (suits_grouped(s)) return Conv2dGrouped{device}.input_gradient(dx, dy, weight, s);
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
  if (suits_grouped(s)) return Conv2dGrouped{device}.weight_gradient(dweight, dy, x, s);
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
