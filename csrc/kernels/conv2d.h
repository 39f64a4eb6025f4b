#pragma once

#include <cstdint>

#include "core/epilogue.h"
#include "core/isa.h"

namespace fastdl {

struct HeightWidth {
  int64_t h, w;
  FASTDL_INLINE int64_t area() const { return h * w; }
  FASTDL_INLINE bool operator==(HeightWidth other) const { return h == other.h && w == other.w; }
};

// x (batch, channels, in), weight (out_channels, channels / groups, kernel), y (batch,
// out_channels, out). Output p reads the inputs p * stride + tap * dilation - padding; beyond x
// they are zeros.
struct Conv2dSizes {
  int64_t batch, groups, channels, out_channels;
  HeightWidth in, kernel, out;
  HeightWidth stride, dilation;
  HeightWidth padding;  // above and to the left

  FASTDL_INLINE int64_t group_channels() const { return channels / groups; }
  FASTDL_INLINE int64_t group_out_channels() const { return out_channels / groups; }
  // What one output sums over.
  FASTDL_INLINE int64_t taps() const { return group_channels() * kernel.area(); }
  // From the first element under a window to the last.
  FASTDL_INLINE HeightWidth reach() const {
    return {dilation.h * (kernel.h - 1), dilation.w * (kernel.w - 1)};
  }
  // Whether y is a matrix product with pixels of x.
  FASTDL_INLINE bool is_pointwise() const {
    const HeightWidth one{1, 1}, zero{0, 0};
    return kernel == one && padding == zero;
  }
};

// All of `forward` take a null bias for none, and apply the epilogue to what they have computed
// while that is in the cache.

// conv2d.cpp
template <typename T>
struct Conv2dKernels {
  // bias may be null.
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // Stride 1 and finite weights only: it multiplies zeros around dy.
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
  void (*bias_gradient)(T* dbias, const T* dy, const Conv2dSizes& sizes);
  // Whether none of the n values at p is inf or NaN.
  bool (*all_finite)(const T* p, int64_t n);
};

// conv2d_direct.cpp
template <typename T>
struct Conv2dDirectKernels {
  // bias may be null.
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // Finite weights only: it multiplies zeros around dy. A stride excludes a dilation.
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
};

// conv2d_pixels.cpp: few channels.
template <typename T>
struct Conv2dPixelsKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // Stride 1 and finite weights only: it multiplies zeros around dy.
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
};

// conv2d_taps.cpp: few outputs of many products, one group. It copies x with its whole padding.
template <typename T>
struct Conv2dTapsKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
};

// conv2d_pointwise.cpp: 1x1 windows, without padding.
template <typename T>
struct Conv2dPointwiseKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
  // pixels (batch, channels, out) are those of x that windows read; and back, between zeros.
  void (*gather)(T* pixels, const T* x, const Conv2dSizes& sizes);
  void (*spread)(T* dx, const T* pixels, const Conv2dSizes& sizes);
};

// conv2d_scatter.cpp: any stride and any weight.
template <typename T>
struct Conv2dScatterKernels {
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
};

// conv2d_weight_gradient.cpp
template <typename T>
struct Conv2dWeightGradientKernels {
  void (*weight_gradient)(T* dweight, const T* dy, const T* x, const Conv2dSizes& sizes);
};

// conv2d_depthwise.cpp: one input channel a group.
template <typename T>
struct Conv2dDepthwiseKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // Finite weights only: it multiplies zeros around dy.
  void (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
  void (*weight_gradient)(T* dweight, const T* dy, const T* x, const Conv2dSizes& sizes);
};

// conv2d_grouped.cpp: few channels a group.
template <typename T>
struct Conv2dGroupedKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // All gradients at once; each may be null. dx for finite weights only: it multiplies zeros around
  // dy.
  void (*backward)(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
                   const Conv2dSizes& sizes);
};

// conv2d_depthwise_same.cpp: one input and one output channel a group, stride 1, and as many
// outputs as inputs around which the window lies: K x K with K = 3, 5 or 7 and padding K / 2. A row
// is shorter than 2^24. Finite weights only, but for dweight: taps beyond the ends of a row are
// left out, those above and below multiply zeros.
template <typename T>
struct Conv2dDepthwiseSameKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // All gradients at once; each may be null.
  void (*backward)(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
                   const Conv2dSizes& sizes);
};

// conv2d_winograd.cpp: one of Winograd's algorithms. forward and input_gradient return whether
// their result is finite; what it holds otherwise is of no use: an inf or NaN spreads over a tile.
template <typename T>
struct WinogradConvolution {
  // packed: what pack made of the weight, or null.
  bool (*forward)(T* y, const T* x, const T* weight, const T* packed, const T* bias,
                  const Conv2dSizes& sizes, const Epilogue<T>& epilogue);
  bool (*input_gradient)(T* dx, const T* dy, const T* weight, const Conv2dSizes& sizes);
  // For forward of any images: how many elements it takes, and the transformed weight itself.
  int64_t (*packed_size)(const Conv2dSizes& sizes);
  void (*pack)(T* packed, const T* weight, const Conv2dSizes& sizes);
};

// How many tiles of `size` outputs cover `out` along an axis: with a dilation, each holds every
// dilation-th of a line.
FASTDL_INLINE int64_t winograd_tiles(int64_t out, int64_t size, int64_t dilation) {
  const int64_t line = dilation * size, rest = out % line;
  return out / line * dilation + (rest < dilation ? rest : dilation);
}

// Windows of stride 1: F(4x4, 3x3), F(2x2, 3x3), which errs less, and F(2x2, 5x5); of stride 2 and
// dilation 1: F(4x4, 3x3), whose gradient of x needs an odd padding.
constexpr int kWinogradAlgorithms = 4;

template <typename T>
struct Conv2dWinogradKernels {
  WinogradConvolution<T> algorithms[kWinogradAlgorithms];
};

// conv2d_winograd_weight_gradient.cpp: likewise, for at least one image.
template <typename T>
struct Conv2dWinogradWeightGradientKernels {
  bool (*weight_gradient[kWinogradAlgorithms])(T* dweight, const T* dy, const T* x,
                                               const Conv2dSizes& sizes);
};

FASTDL_DECLARE_KERNELS(Conv2dKernels, conv2d_kernels)
FASTDL_DECLARE_KERNELS(Conv2dDirectKernels, conv2d_direct_kernels)
FASTDL_DECLARE_KERNELS(Conv2dPixelsKernels, conv2d_pixels_kernels)
FASTDL_DECLARE_KERNELS(Conv2dTapsKernels, conv2d_taps_kernels)
FASTDL_DECLARE_KERNELS(Conv2dWinogradKernels, conv2d_winograd_kernels)
FASTDL_DECLARE_KERNELS(Conv2dWinogradWeightGradientKernels, conv2d_winograd_weight_gradient_kernels)
FASTDL_DECLARE_KERNELS(Conv2dPointwiseKernels, conv2d_pointwise_kernels)
FASTDL_DECLARE_KERNELS(Conv2dScatterKernels, conv2d_scatter_kernels)
FASTDL_DECLARE_KERNELS(Conv2dWeightGradientKernels, conv2d_weight_gradient_kernels)
FASTDL_DECLARE_KERNELS(Conv2dDepthwiseKernels, conv2d_depthwise_kernels)
FASTDL_DECLARE_KERNELS(Conv2dDepthwiseSameKernels, conv2d_depthwise_same_kernels)
FASTDL_DECLARE_KERNELS(Conv2dGroupedKernels, conv2d_grouped_kernels)

}  // namespace fastdl
