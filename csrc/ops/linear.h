#pragma once

#include "core/output.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

// bias may be null.
void linear_forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* bias,
                    const EpilogueOptions& epilogue);
// The outputs may be null: those gradients are not computed.
void linear_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy, const Tensor& x,
                     const Tensor& weight);

}  // namespace fastdl::ops
