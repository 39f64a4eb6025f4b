#pragma once

#include <string>

#include "core/output.h"

namespace fastdl::ops {

// target: class indices, int64, or probabilities of x's shape and dtype. weight may be null.
// reduction: "none", "mean" or "sum".
void cross_entropy_forward(Output& loss, const Tensor& x, const Tensor& target,
                           const Tensor* weight, int64_t ignore_index, const std::string& reduction,
                           double label_smoothing);
// Makes those of dx and dtarget that are not null; dtarget for probabilities only.
void cross_entropy_backward(Output* dx, Output* dtarget, const Tensor& dy, const Tensor& x,
                            const Tensor& target, const Tensor* weight, int64_t ignore_index,
                            const std::string& reduction, double label_smoothing);

}  // namespace fastdl::ops
