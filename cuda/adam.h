#pragma once

#include <vector>

#include "core/device.h"
#include "kernels/adam.h"

namespace fastdl::cuda {

// Of one tensor, as in AdamItem.
struct AdamScalars {
  double step_size, inverse_root_correction;
};

struct Adam {
  const Device& device;

  // The lists hold a tensor for each of the scalars. Those of params and others may differ in
  // dtype, but that float64 goes with nothing else. max_exp_avg_sqs is null without AMSGrad.
  void adam_step(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                 const TensorList& exp_avg_sqs, const TensorList* max_exp_avg_sqs,
                 const std::vector<AdamScalars>& scalars, const AdamFactors<double>& factors) const;
};

}  // namespace fastdl::cuda
