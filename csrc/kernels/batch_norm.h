#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// x is (batch, channels, inner), C-contiguous.
struct BatchNormSizes {
  int64_t batch, channels, inner;
};

// Planes shorter than this would leave most of a vector empty: there the lanes run along channels.
constexpr int64_t kBatchNormPlane = 16;

// Arrays but x and y have one value per channel; weight, bias and the running ones may be null.
template <typename T>
struct BatchNormForward {
  T *y, *mean, *rstd, *running_mean, *running_var;
  const T *x, *weight, *bias;
  BatchNormSizes sizes;
  double momentum, eps;
};

// dx, dweight, dbias and weight may be null.
template <typename T>
struct BatchNormBackward {
  T *dx, *dweight, *dbias;
  const T *dy, *x, *weight, *mean, *rstd;
  BatchNormSizes sizes;
  bool training;
};

template <typename T>
struct BatchNormKernels {
  void (*forward_training)(const BatchNormForward<T>& a);
  void (*forward_evaluation)(const BatchNormForward<T>& a);  // only reads the running statistics
  void (*backward)(const BatchNormBackward<T>& a);
};

FASTDL_DECLARE_KERNELS(BatchNormKernels, batch_norm_kernels)

}  // namespace fastdl
