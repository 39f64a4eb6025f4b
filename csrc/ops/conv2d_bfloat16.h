// conv2d of 1x1 windows on bfloat16 as it lies: matrix products of pairs (run_gemm). One group.
#pragma once

#include <array>

#include "core/output.h"
#include "kernels/conv2d.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

void pointwise_bfloat16_forward(const Tensor& y, const Tensor& x, const Tensor& weight,
                                const Tensor* bias, const Conv2dSizes& s,
                                const EpilogueOptions& epilogue);
// Gradients of null are not computed.
void pointwise_bfloat16_backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias,
                                 const Tensor& dy, const Tensor& x, const Tensor& weight,
                                 const Conv2dSizes& s);

}  // namespace fastdl::ops
