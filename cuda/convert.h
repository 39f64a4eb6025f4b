#pragma once

#include "core/device.h"

namespace fastdl::cuda {

struct Convert {
  const Device& device;

  void widen(float* y, const Tensor& x) const;  // x: bfloat16 or float16
  // All 16-bit `to` from float32 `from` in one launch; one rounding, to nearest even.
  void narrow(const TensorList& to, const TensorList& from) const;
};

}  // namespace fastdl::cuda
