#pragma once

#include "core/device.h"

namespace fastdl::cuda {

struct Convert {
  const Device& device;

  // Arrays of float32, bfloat16 or float16 from others of any of these, all in one launch. One
  // rounding, to nearest even.
  void convert(const TensorList& to, const TensorList& from) const;
};

}  // namespace fastdl::cuda
