#pragma once

#include "core/device.h"

namespace fastdl::cuda {

struct ChannelSums {
  const Device& device;

  // out[c] = the sum of x (outer, channels, inner) over outer and inner: the gradient of a bias.
  void sum(const Tensor& out, const Tensor& x, int64_t outer, int64_t channels,
           int64_t inner) const;
};

}  // namespace fastdl::cuda
