#pragma once

#include "core/device.h"
#include "core/epilogue.h"
#include "kernels/conv2d.h"

namespace fastdl::cuda {

// Tensors of one dtype, images and weights of either layout. bias and residual may be null.
struct Conv2d {
  const Device& device;

  void forward(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor* bias,
               const Conv2dSizes& sizes, Activation activation, const Tensor* residual) const;
  void input_gradient(const Tensor& dx, const Tensor& dy, const Tensor& weight,
                      const Conv2dSizes& sizes) const;
  void weight_gradient(const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Conv2dSizes& sizes) const;
  void bias_gradient(const Tensor& dbias, const Tensor& dy, const Conv2dSizes& sizes) const;
};

}  // namespace fastdl::cuda
