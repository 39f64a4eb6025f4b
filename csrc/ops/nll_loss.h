#pragma once

#include <string>

#include "core/output.h"

namespace fastdl::ops {

// target: class indices, int64. weight may be null. reduction: "none", "mean" or "sum".
void nll_loss_forward(Output& loss, const Tensor& x, const Tensor& target, const Tensor* weight,
                      int64_t ignore_index, const std::string& reduction);
void nll_loss_backward(Output& dx, const Tensor& dy, const Tensor& x, const Tensor& target,
                       const Tensor* weight, int64_t ignore_index, const std::string& reduction);

}  // namespace fastdl::ops
