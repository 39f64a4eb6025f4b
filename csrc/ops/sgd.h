#pragma once

#include "ops/tensor_list.h"

namespace fastdl::ops {

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
};

// On step 1 a buffer is written, not read. momentum_buffers: null without momentum.
void sgd_step(const TensorList& params, const TensorList& grads, const TensorList* momentum_buffers,
              const Steps& steps, const SgdOptions& options, const DeviceScalars& scalars = {});

}  // namespace fastdl::ops
