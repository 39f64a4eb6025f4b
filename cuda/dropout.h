#pragma once

#include "core/device.h"
#include "core/random.h"

namespace fastdl::cuda {

struct Dropout {
  const Device& device;

  void copy(const Tensor& y, const Tensor& x) const;
  // y may be x.
  void dropout(const Tensor& y, const Tensor& x, const fastdl::Dropout& factors) const;
};

}  // namespace fastdl::cuda
