// conv2d of many groups with few channels each, depthwise ones above all: sums as they are defined,
// without matrix units.
//
// A thread makes kWide channels of 2 or 4 pixels, so that an element of x serves all channels of
// its group, and a weight all pixels. Neighbouring threads have neighbouring pixels where images
// are (NCHW), and neighbouring groups where channels are; depthwise, there, each channel of a pack
// of 16 bytes is a group. Bound by memory, or the first cache: taps of neighbouring windows meet
// there. The gradient of the weight is summed over parts of the pixels, which another kernel adds
// in order.
#include "cuda/conv2d_grouped.h"

#include "cuda/add_blocks.h"
#include "cuda/conv2d_images.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGroupedChannels = 16;

// How a block's threads lie over units (channels, or groups) and pixels: `width` of them side by
// side have the units of one pixel.
struct Layout {
  int width, units;
  int64_t pixels;
  Divider unit_blocks;

  Layout(bool channels_last, int64_t units, int64_t pixels)
      : width(1), units(static_cast<int>(units)), pixels(pixels) {
    while (channels_last && width < kWarp && width < units) width *= 2;
    unit_blocks = Divider(ceil_div<int64_t>(units, width));
  }
  __host__ __device__ int rows() const { return kThreads / width; }
  __device__ int row() const { return static_cast<int>(threadIdx.x) / width; }
  // Also of the block: index is what is left of blockIdx.x then.
  __device__ int unit(unsigned& index) const {
    return static_cast<int>(unit_blocks.split(index)) * width +
           static_cast<int>(threadIdx.x) % width;
  }
  // The blocks for so many along the units.
  unsigned blocks(int64_t times) const {
    const int64_t count = int64_t{unit_blocks.divisor} * times;
    fastdl::check(count <= kMaxBlocks, "conv2d", "needs ", count,
                  " blocks of threads, more than a GPU takes");
    return static_cast<unsigned>(count);
  }
};

// The weights of a group: `results` channels are made of `terms` others.
template <typename T>
struct GroupWeights {
  const T* weight;
  int64_t group_stride, result_stride, term_stride;
  Strides strides;
  int terms, results;
};

// Of a thread: what fits the registers.
template <int kWide>
constexpr int kPixelsBeside = kWide == 8 ? 2 : 4;

// Images are Patches (y of x) or Reached (dx of dy). Of the taps that a pixel does not have, y's
// are multiplied as zeros, and dx's are left out: an inf of the weight has no part in them.
template <bool kDepthwise, int kWide, typename T, typename Images>
__global__ void __launch_bounds__(kThreads, 1)
    grouped_kernel(Images images, GroupWeights<T> weights, ImageResult<T, true> result,
                   Layout layout, Divider chunks) {
  using C = Compute<T>;
  constexpr int kPixels = kPixelsBeside<kWide>;
  constexpr bool kLeavesOut = std::is_same_v<Images, Reached<T>>;
  unsigned block = blockIdx.x;
  const int unit = layout.unit(block);
  if (unit >= layout.units) return;
  auto group = static_cast<unsigned>(unit);
  const int first = static_cast<int>(kDepthwise ? unit : chunks.split(group)) * kWide;
  if (kDepthwise) group = 0;
  const int64_t channel = int64_t{group} * weights.results + first;  // of the result

  Pixel pixels[kPixels];
  const int64_t first_pixel = int64_t{block} * kPixels * layout.rows() + layout.row();
#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int64_t index = first_pixel + i * layout.rows();
    pixels[i] = images.pixel(index < layout.pixels ? index : 0);
    pixels[i].offset += kDepthwise ? first : images.group(group);
  }
  const T* of_results[kWide];
#pragma unroll
  for (int j = 0; j < kWide; ++j) {
    const int r = kDepthwise || first + j < weights.results ? first + j : weights.results - 1;
    of_results[j] = weights.weight + group * weights.group_stride + r * weights.result_stride;
  }

  C totals[kPixels][kWide] = {};
  for (int h = 0; h < images.window.kernel_h; ++h) {
    C sums[kPixels][kWide] = {};  // of a row of the window: short sums are exact enough
    for (int w = 0; w < images.window.kernel_w; ++w) {
      const Tap tap{0, h * images.window.dilation_h, w * images.window.dilation_w};
      const T* from[kPixels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) from[i] = images.at(pixels[i], tap);
      int64_t at = h * weights.strides.h + w * weights.strides.w;
      for (int term = 0; term < (kDepthwise ? 1 : weights.terms); ++term) {
        C factors[kWide];
#pragma unroll
        for (int j = 0; j < kWide; ++j) factors[j] = widen(of_results[j][at]);
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          if (kLeavesOut && !from[i]) continue;
          C x[kDepthwise ? kWide : 1] = {};
          if (from[i]) load_packs(x, from[i] + term * images.strides.c);
#pragma unroll
          for (int j = 0; j < kWide; ++j) {
            sums[i][j] = fma(x[kDepthwise ? j : 0], factors[j], sums[i][j]);
          }
        }
        at += weights.term_stride;
      }
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
#pragma unroll
      for (int j = 0; j < kWide; ++j) totals[i][j] += sums[i][j];
    }
  }

#pragma unroll
  for (int i = 0; i < kPixels; ++i) {
    const int64_t index = first_pixel + i * layout.rows();
    if (index >= layout.pixels) break;
    if (kDepthwise && result.packs) {
      result.put_pack(0, index, channel, totals[i]);
      continue;
    }
#pragma unroll
    for (int j = 0; j < kWide; ++j) {
      if (kDepthwise || first + j < weights.results) {
        result.put(0, index, channel + j, totals[i][j]);
      }
    }
  }
}

template <bool kDepthwise, int kWide, typename T, typename Images>
void launch_grouped(const Device& device, const Images& images, const GroupWeights<T>& weights,
                    const ImageResult<T, true>& result, int64_t groups, int64_t pixels) {
  const int64_t chunks =
      kDepthwise ? 1 : ceil_div<int64_t>(weights.results, static_cast<int64_t>(kWide));
  const Layout layout(images.channels_last, kDepthwise ? groups / kWide : groups * chunks, pixels);
  const int64_t pixel_blocks = ceil_div<int64_t>(pixels, kPixelsBeside<kWide> * layout.rows());
  if (pixel_blocks == 0) return;
  launch(device, {layout.blocks(pixel_blocks), kThreads},
         grouped_kernel<kDepthwise, kWide, T, Images>, images, weights, result, layout,
         Divider(chunks));
}

template <typename T, typename Images>
void grouped(const Device& device, const Images& images, const GroupWeights<T>& weights,
             const ImageResult<T, true>& result, int64_t groups, int64_t pixels) {
  constexpr int kPack = kPackSize<T>;
  const bool depthwise = weights.terms == 1 && weights.results == 1;
  if (depthwise && images.channels_last && groups % kPack == 0 && is_aligned(images.images)) {
    launch_grouped<true, kPack>(device, images, weights, result, groups, pixels);
  } else if (weights.results == 1) {
    launch_grouped<false, 1>(device, images, weights, result, groups, pixels);
  } else if (weights.results <= 4) {
    launch_grouped<false, 4>(device, images, weights, result, groups, pixels);
  } else {
    launch_grouped<false, 8>(device, images, weights, result, groups, pixels);
  }
}

// A thread's part of dweight: kTaps taps, counted with their channels, of one output channel.
constexpr int kTaps = 8;
constexpr int kSumPixels = 128;  // of a thread at most: short sums are exact enough

template <typename T>
__global__ void __launch_bounds__(kThreads)
    grouped_weight_gradient_kernel(Compute<T>* partial, const T* dy, Strides dy_strides,
                                   Patches<T> x, Strides to, Layout layout, Divider outs,
                                   Divider chunks, int taps, int64_t part) {
  using C = Compute<T>;
  __shared__ C of_threads[kTaps][kThreads];
  unsigned block = blockIdx.x;
  const int out = layout.unit(block);
  const int first = static_cast<int>(chunks.split(block)) * kTaps;
  const int64_t begin = block * part;
  const int64_t end = begin + part < layout.pixels ? begin + part : layout.pixels;
  auto group = static_cast<unsigned>(out);
  outs.split(group);
  Tap at[kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) at[j] = x.tap(first + j < taps ? first + j : 0);
  C sums[kTaps] = {};
  if (out < layout.units) {
    for (int64_t k = begin + layout.row(); k < end; k += layout.rows()) {
      int h, w;
      const int64_t n = x.pixels.split(k, h, w);
      const C of_y =
          widen(dy[n * dy_strides.n + out * dy_strides.c + h * dy_strides.h + w * dy_strides.w]);
      const Pixel pixel{n * x.strides.n + x.group(group),
                        h * x.window.stride_h - x.window.padding_h,
                        w * x.window.stride_w - x.window.padding_w};
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const T* const p = x.at(pixel, at[j]);
        sums[j] = fma(of_y, p ? widen(*p) : C(0), sums[j]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kTaps; ++j) of_threads[j][threadIdx.x] = sums[j];
  for (int step = layout.rows() / 2; step > 0; step /= 2) {
    __syncthreads();
    if (layout.row() >= step) continue;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      of_threads[j][threadIdx.x] += of_threads[j][threadIdx.x + step * layout.width];
    }
  }
  if (layout.row() > 0 || out >= layout.units) return;
  C* const of_part = partial + block * layout.units * to.n + out * to.n;
  for (int j = 0; j < kTaps && first + j < taps; ++j) {
    const Tap t = x.taps.tap(first + j);
    of_part[t.channel * to.c + t.h * to.h + t.w * to.w] = of_threads[j][threadIdx.x];
  }
}

template <typename T>
Patches<T> patches_of(const Tensor& x, const Conv2dSizes& s, const Window& window) {
  return {x.ptr<const T>(), strides_of(x, s.channels, s.in), window, x.channels_last};
}

}  // namespace

bool suits_grouped(const Conv2dSizes& s) {
  return s.groups > 1 && 0 < s.group_channels() &&
         std::max(s.group_channels(), s.group_out_channels()) <= kMaxGroupedChannels;
}

void Conv2dGrouped::forward(const Tensor& y, const Tensor& x, const Tensor& weight,
                            const Tensor* bias, const Conv2dSizes& s, Activation activation,
                            const Tensor* residual) const {
  const Window window(s);
  dispatch(x.dtype, [&]<typename T>() {
    const Strides w = strides_of(weight, s.group_channels(), s.kernel);
    const Patches<T> patches = patches_of<T>(x, s, window);
    const GroupWeights<T> weights{weight.ptr<const T>(), window.outs * w.n, w.n, w.c, w,
                                  window.channels,       window.outs};
    const ImageResult<T, true> result{
        {y.ptr<T>(), ptr_or_null<const T>(bias), ptr_or_null<const T>(residual), activation},
        strides_of(y, s.out_channels, s.out),
        plane_divider(window.out_h, window.out_w),
        static_cast<int>(s.out_channels)};
    grouped(device, patches, weights, result, s.groups, s.batch * s.out.area());
  });
}

void Conv2dGrouped::input_gradient(const Tensor& dx, const Tensor& dy, const Tensor& weight,
                                   const Conv2dSizes& s) const {
  const Window window(s);
  dispatch(dx.dtype, [&]<typename T>() {
    const Strides w = strides_of(weight, s.group_channels(), s.kernel);
    const Reached<T> reached{dy.ptr<const T>(), strides_of(dy, s.out_channels, s.out), window,
                             dx.channels_last};
    // Depthwise, the groups are walked as results.
    const bool depthwise = window.outs == 1 && window.channels == 1;
    const GroupWeights<T> weights{
        weight.ptr<const T>(), window.outs * w.n, depthwise ? w.n : w.c, w.n, w,
        window.outs,           window.channels};
    const ImageResult<T, true> result{{dx.ptr<T>(), nullptr, nullptr, Activation::none},
                                      strides_of(dx, s.channels, s.in),
                                      plane_divider(window.in_h, window.in_w),
                                      static_cast<int>(s.channels)};
    grouped(device, reached, weights, result, s.groups, s.batch * s.in.area());
  });
}

void Conv2dGrouped::weight_gradient(const Tensor& dweight, const Tensor& dy, const Tensor& x,
                                    const Conv2dSizes& s) const {
  const Window window(s);
  const int64_t pixels = s.batch * s.out.area();
  dispatch(x.dtype, [&]<typename T>() {
    const Layout layout(x.channels_last, s.out_channels, pixels);
    const int64_t chunks = ceil_div<int64_t>(s.taps(), kTaps), rows = layout.rows();
    const int64_t wanted =
        ceil_div<int64_t>(int64_t{4} * limits(device).multiprocessors, layout.blocks(chunks));
    const int64_t share = ceil_div(ceil_div(pixels, wanted), rows);  // pixels of a thread
    const int64_t part = std::clamp<int64_t>(share, 1, kSumPixels) * rows;
    const int64_t parts = ceil_div(pixels, part);
    const Workspace<Compute<T>> partial(std::max<int64_t>(parts, 1) * s.out_channels * s.taps());
    const Patches<T> patches = patches_of<T>(x, s, window);
    if (parts > 0) {
      launch(device, {layout.blocks(chunks * parts), kThreads}, grouped_weight_gradient_kernel<T>,
             partial.data(), dy.ptr<const T>(), strides_of(dy, s.out_channels, s.out), patches,
             strides_of(dweight, s.group_channels(), s.kernel), layout, Divider(window.outs),
             Divider(chunks), static_cast<int>(s.taps()), part);
    }
    const int64_t columns = s.out_channels * s.taps();
    add_blocks(device, dweight, partial.data(), columns, parts, columns);
  });
}

}  // namespace fastdl::cuda
