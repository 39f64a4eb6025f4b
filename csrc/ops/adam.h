#pragma once

#include "ops/tensor_list.h"

namespace fastdl::ops {

struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;  // AdamW
  bool maximize;
};

// max_exp_avg_sqs: null without AMSGrad. Where the counts lie on a device, steps means nothing.
void adam_step(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
               const TensorList& exp_avg_sqs, const TensorList* max_exp_avg_sqs, const Steps& steps,
               const AdamOptions& options, const DeviceScalars& scalars = {});

}  // namespace fastdl::ops
