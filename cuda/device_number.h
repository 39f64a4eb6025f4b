// What an optimiser's step reads on the device, so that the host need not wait for it.
#pragma once

#include "core/tensor.h"

namespace fastdl::cuda {

// A number the host knows, or that lies on the device.
struct DeviceNumber {
  double value;
  const float* at;

  DeviceNumber(double value, const Tensor* tensor) : value(value), at(ptr_or_null<float>(tensor)) {}
};

// What a gradient scaler found and multiplied by; null where there is none.
struct GradScaling {
  const float* found_inf;
  const float* scale;

  GradScaling(const Tensor* found_inf, const Tensor* scale)
      : found_inf(ptr_or_null<float>(found_inf)), scale(ptr_or_null<float>(scale)) {}
};

}  // namespace fastdl::cuda
