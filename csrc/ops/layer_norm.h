#pragma once

#include "core/output.h"

namespace fastdl::ops {

// mean and rstd have the shape of the leading dimensions; weight and bias may be null.
void layer_norm_forward(Output& y, Output& mean, Output& rstd, const Tensor& x,
                        const Shape& normalized_shape, const Tensor* weight, const Tensor* bias,
                        double eps);
// Makes those of dx, dweight and dbias that are not null.
void layer_norm_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy,
                         const Tensor& x, const Shape& normalized_shape, const Tensor& mean,
                         const Tensor& rstd, const Tensor* weight);

}  // namespace fastdl::ops
