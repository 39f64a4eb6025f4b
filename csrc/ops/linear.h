#pragma once

#include "core/output.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

// bias may be null; packed: what pack_linear_weight made of the weight, or null.
void linear_forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* packed,
                    const Tensor* bias, const EpilogueOptions& epilogue);
// The weight as the matrix product wants it.
void pack_linear_weight(Output& packed, const Tensor& weight);
// The outputs may be null: those gradients are not computed.
void linear_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy, const Tensor& x,
                     const Tensor& weight);

}  // namespace fastdl::ops
