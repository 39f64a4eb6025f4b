#pragma once

#include "core/output.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

// indices is null when nobody asks for them.
void adaptive_max_pool2d_forward(Output& y, Output* indices, const Tensor& x,
                                 const AdaptiveSize& output_size);
void adaptive_max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                                  const Shape& input_size);

}  // namespace fastdl::ops
