#pragma once

#include "core/output.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

void adaptive_avg_pool2d_forward(Output& y, const Tensor& x, const AdaptiveSize& output_size);
void adaptive_avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size);

}  // namespace fastdl::ops
