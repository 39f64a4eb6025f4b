// conv2d of arrays on a CUDA device, images of either layout; the checks have passed. Both return
// false for arrays of the host.
#pragma once

#include "ops/conv2d.h"

namespace fastdl::ops {

inline double conv2d_flops(const Conv2dSizes& s) {
  return 2.0 * static_cast<double>(s.batch) * static_cast<double>(s.out_channels) *
         static_cast<double>(s.out.area()) * static_cast<double>(s.taps());
}

// shape: that of the result.
bool conv2d_forward_on_device(Output& y, const Shape& shape, const Tensor& x, const Tensor& weight,
                              const Tensor* bias, const Conv2dSizes& s,
                              const EpilogueOptions& epilogue);
bool conv2d_backward_on_device(Output& dx, Output& dweight, Output& dbias, const Tensor& dy,
                               const Tensor& x, const Tensor& weight, const Conv2dSizes& s,
                               const std::array<bool, 3>& mask);

}  // namespace fastdl::ops
