#pragma once

#include "core/device.h"
#include "kernels/class_sizes.h"

namespace fastdl::cuda {

// target holds class indices, int64, or probabilities like x; weight is null or of x's dtype. A
// class out of range makes NaN.
struct CrossEntropy {
  const Device& device;

  void forward(const Tensor& loss, const Tensor& x, const Tensor& target, const Tensor* weight,
               ClassSizes sizes, int64_t ignore_index, Reduction reduction,
               double label_smoothing) const;
  // x is not empty. dx or dtarget, for probabilities only, may be null.
  void backward(const Tensor* dx, const Tensor* dtarget, const Tensor& dy, const Tensor& x,
                const Tensor& target, const Tensor* weight, ClassSizes sizes, int64_t ignore_index,
                Reduction reduction, double label_smoothing) const;
};

}  // namespace fastdl::cuda
