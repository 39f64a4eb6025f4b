#pragma once

#include "core/output.h"

namespace fastdl::ops {

void softmax_forward(Output& y, const Tensor& x, int64_t dim);
void softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim);
void log_softmax_forward(Output& y, const Tensor& x, int64_t dim);
void log_softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim);

}  // namespace fastdl::ops
