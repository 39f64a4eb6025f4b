#pragma once

#include "core/output.h"
#include "ops/max_pool2d.h"

namespace fastdl::ops {

void adaptive_max_pool2d_forward(const MaxPoolOutputs& to, const Tensor& x,
                                 const AdaptiveSize& output_size);
void adaptive_max_pool2d_backward_codes(Output& dx, const Tensor& dy, const Tensor& codes,
                                        const Shape& input_size);
void adaptive_max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                                  const Shape& input_size);

}  // namespace fastdl::ops
