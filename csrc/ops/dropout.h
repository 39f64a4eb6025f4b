#pragma once

#include "core/output.h"
#include "core/random.h"

namespace fastdl::ops {

// Without training y is a copy of x. y may wrap x's own memory. Returns the state of the random
// numbers it used, for backward.
RngState dropout_forward(Output& y, const Tensor& x, double p, bool training);
void dropout_backward(Output& dx, const Tensor& dy, double p, RngState rng_state);

}  // namespace fastdl::ops
