#pragma once

#include "cuda/conv2d.h"

namespace fastdl::cuda {

// Groups so small that matrix products of theirs would leave most of a tile idle.
bool suits_grouped(const Conv2dSizes& sizes);

// The methods of Conv2d, for such groups.
struct Conv2dGrouped {
  const Device& device;

  void forward(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor* bias,
               const Conv2dSizes& sizes, Activation activation, const Tensor* residual) const;
  void input_gradient(const Tensor& dx, const Tensor& dy, const Tensor& weight,
                      const Conv2dSizes& sizes) const;
  void weight_gradient(const Tensor& dweight, const Tensor& dy, const Tensor& x,
                       const Conv2dSizes& sizes) const;
};

}  // namespace fastdl::cuda
