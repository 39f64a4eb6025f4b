// Which convolutions AMX's tiles compute.
#pragma once

#include <algorithm>
#include <type_traits>

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

// 1x1 windows of stride 1.
template <typename E>
const Conv2dTilesKernels<E>* choose_tiles_pointwise_gradient(const Conv2dSizes& s) {
  if (!s.is_pointwise() || s.stride.area() > 1 || s.groups > 1) return nullptr;
  return convolution_worth_tiles<E>(s.channels, s.out_channels, s.batch * s.in.area())
             ? conv2d_tiles_kernels<E>()
             : nullptr;
}

// The gradient of the weight of such windows, likewise.
template <typename E>
bool tiles_take_weight_gradient(const Conv2dSizes& s) {
  return s.is_pointwise() && s.stride.area() == 1 && s.groups == 1 && matmul_tiles_kernels<E>() &&
         convolution_worth_tiles<E>(s.out_channels, s.in.area(), s.channels);
}
// dweight = the sum of dy[n] x[n]^T.
inline GemmPlan weight_gradient_plan(const Conv2dSizes& s) {
  const int64_t pixels = s.in.area(), outs = s.out_channels, channels = s.channels;
  GemmPlan plan = {outs, channels, pixels, pixels, 1, 1, pixels};
  plan.sum = {{{s.batch, outs * pixels, channels * pixels}}, 1, s.batch};
  return plan;
}
template <typename E>
void weight_gradient_on_tiles(E* dweight, const E* dy, const E* x, const Conv2dSizes& s) {
  matmul_tiles_kernels<E>()->gemm(dweight, dy, x, nullptr, weight_gradient_plan(s),
                                  Activation::none, nullptr);
}

}  // namespace fastdl::ops
