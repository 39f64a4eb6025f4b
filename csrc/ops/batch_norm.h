#pragma once

#include "core/output.h"

namespace fastdl::ops {

// The running statistics are both null (in training only) or both given, and change in training.
// weight and bias may be null.
void batch_norm_forward(Output& y, Output& mean, Output& rstd, const Tensor& x,
                        const Tensor* running_mean, const Tensor* running_var, const Tensor* weight,
                        const Tensor* bias, bool training, double momentum, double eps);
// Makes those of dx, dweight and dbias that are not null.
void batch_norm_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy,
                         const Tensor& x, const Tensor* weight, const Tensor& mean,
                         const Tensor& rstd, bool training);

}  // namespace fastdl::ops
