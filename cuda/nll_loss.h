#pragma once

#include "core/device.h"
#include "kernels/class_sizes.h"

namespace fastdl::cuda {

// target holds class indices, int64; weight is null or of x's dtype. A class out of range makes
// NaN.
struct NllLoss {
  const Device& device;

  void forward(const Tensor& loss, const Tensor& x, const Tensor& target, const Tensor* weight,
               ClassSizes sizes, int64_t ignore_index, Reduction reduction) const;
  void backward(const Tensor& dx, const Tensor& dy, const Tensor& target, const Tensor* weight,
                ClassSizes sizes, int64_t ignore_index, Reduction reduction) const;
};

}  // namespace fastdl::cuda
