// 16-bit arrays widened to float32 before an op without kernels of their own, and narrowed after.
#pragma once

#include "core/tensor.h"

namespace fastdl::ops {

void widen(float* y, const Tensor& x);         // x: bfloat16 or float16
void narrow(const Tensor& y, const float* x);  // y: the same; one rounding, to nearest even

}  // namespace fastdl::ops
