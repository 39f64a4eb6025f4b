// conv2d of images with the channels last, and of weights: its results lie as its arguments do.
#pragma once

#include "ops/conv2d.h"

namespace fastdl::ops {

// As conv2d_forward and conv2d_backward, whose checks have passed; y: the shape of the result.
void conv2d_channels_last_forward(Output& y, const Shape& shape, const Tensor& x,
                                  const Tensor& weight, const Tensor* packed, const Tensor* bias,
                                  const Conv2dSizes& s, const Conv2dOptions& options,
                                  const EpilogueOptions& epilogue);
void conv2d_channels_last_backward(Output& dx, Output& dweight, Output& dbias, const Tensor& dy,
                                   const Tensor& x, const Tensor& weight, const Conv2dSizes& s,
                                   const Conv2dOptions& options,
                                   const std::array<bool, 3>& output_mask);

}  // namespace fastdl::ops
