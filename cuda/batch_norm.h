#pragma once

#include "core/device.h"
#include "kernels/batch_norm.h"

namespace fastdl::cuda {

// x is (batch, channels, inner); channels_last images are (batch * inner, channels, 1). Parameters
// and running statistics, null where absent, are of x's dtype or float32.
struct BatchNorm {
  const Device& device;

  void forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
               const Tensor* running_mean, const Tensor* running_var, const Tensor* weight,
               const Tensor* bias, BatchNormSizes sizes, bool training, double momentum,
               double eps) const;
  // dx, dweight and dbias may be null.
  void backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias, const Tensor& dy,
                const Tensor& x, const Tensor* weight, const Tensor& mean, const Tensor& rstd,
                BatchNormSizes sizes, bool training) const;
};

}  // namespace fastdl::cuda
