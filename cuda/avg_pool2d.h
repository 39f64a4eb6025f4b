#pragma once

#include "core/device.h"
#include "kernels/avg_pool2d.h"

namespace fastdl::cuda {

// For windows of either kind, and images of either layout. Without dilation; adaptive windows are
// divided by their size.
struct AvgPool2d {
  const Device& device;

  template <typename Windows>
  void forward(const Tensor& y, const Tensor& x, const Windows& windows, AvgPoolDivisor by) const;
  template <typename Windows>
  void backward(const Tensor& dx, const Tensor& dy, const Windows& windows,
                AvgPoolDivisor by) const;
};

}  // namespace fastdl::cuda
