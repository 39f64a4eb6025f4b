// Which convolutions AMX's tiles compute.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/buffer_pool.h"
#include "kernels/conv2d_tiles.h"
#include "kernels/matmul_tiles.h"
#include "ops/worth_tiles.h"

namespace fastdl::ops {

constexpr const char* kConv2dTiles = "implicit GEMM, products of bfloat16 on tiles";
constexpr const char* kConv2dTilesOverImages =
    "matrix product over all images, products of bfloat16 on tiles";

inline bool tiles_serve(HeightWidth kernel, HeightWidth stride, int64_t groups) {
  return groups == 1 && stride.w <= 2 && std::max(kernel.h, kernel.w) <= kMaxTilesWindow;
}

// Patches are laid out while tiles multiply.
template <typename E>
bool convolution_worth_tiles(int64_t rows, int64_t terms, int64_t columns) {
  constexpr int64_t kFewProducts = 100'000;
  return rows * terms * columns >= kFewProducts && worth_tiles<E>(rows, columns, terms, 1);
}

// float has faster kernels for larger windows; 16-bit numbers have none but run_gemm, for 1x1
// windows of stride 1.
template <typename E>
const Conv2dTilesKernels<E>* choose_tiles_forward(const Conv2dSizes& s) {
  if (!tiles_serve(s.kernel, s.stride, s.groups)) return nullptr;
  const bool worth = convolution_worth_tiles<E>(s.out_channels, s.taps(), s.batch * s.out.area());
  const bool chosen = std::is_same_v<E, float> ? s.is_pointwise() && worth
                                               : !s.is_pointwise() || s.stride.area() > 1 || worth;
  return chosen ? conv2d_tiles_kernels<E>() : nullptr;
}

// 1x1 windows; 16-bit numbers only of stride 1.
template <typename E>
const Conv2dTilesKernels<E>* choose_tiles_pointwise_gradient(const Conv2dSizes& s) {
  if (!s.is_pointwise() || s.groups > 1) return nullptr;
  if (s.stride.area() > 1 && !std::is_same_v<E, float>) return nullptr;
  return convolution_worth_tiles<E>(s.channels, s.out_channels, s.batch * s.out.area())
             ? conv2d_tiles_kernels<E>()
             : nullptr;
}

// The same convolution of the pixels that its windows read.
inline Conv2dSizes without_stride(const Conv2dSizes& sizes) {
  Conv2dSizes s = sizes;
  s.in = s.out;
  s.stride = {1, 1};
  return s;
}

inline void input_gradient_on_tiles(float* dx, const float* dy, const float* weight,
                                    const Conv2dSizes& s) {
  const auto* const kernels = conv2d_tiles_kernels<float>();
  if (s.stride.area() == 1) return kernels->input_gradient(dx, dy, weight, s);
  const Workspace<float> pixels(s.batch * s.channels * s.out.area());
  kernels->input_gradient(pixels.data(), dy, weight, without_stride(s));
  conv2d_pointwise_kernels<float>().spread(dx, pixels.data(), s);
}

// The gradient of the weight, likewise.
template <typename E>
bool tiles_take_weight_gradient(const Conv2dSizes& s) {
  return s.is_pointwise() && s.groups == 1 && matmul_tiles_kernels<E>() &&
         convolution_worth_tiles<E>(s.out_channels, s.out.area(), s.channels);
}
// dweight = the sum of dy[n] x[n]^T.
inline GemmPlan weight_gradient_plan(const Conv2dSizes& s) {
  const int64_t pixels = s.out.area(), outs = s.out_channels, channels = s.channels;
  GemmPlan plan = {outs, channels, pixels, pixels, 1, 1, pixels};
  plan.sum = {{{s.batch, outs * pixels, channels * pixels}}, 1, s.batch};
  return plan;
}
inline void weight_gradient_on_tiles(float* dweight, const float* dy, const float* x,
                                     const Conv2dSizes& s) {
  const auto multiply = [&](const float* pixels) {
    matmul_tiles_kernels<float>()->gemm(dweight, dy, pixels, nullptr, weight_gradient_plan(s),
                                        Activation::none, nullptr);
  };
  if (s.stride.area() == 1) return multiply(x);
  const Workspace<float> pixels(s.batch * s.channels * s.out.area());
  conv2d_pointwise_kernels<float>().gather(pixels.data(), x, s);
  multiply(pixels.data());
}

}  // namespace fastdl::ops
