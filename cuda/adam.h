#pragma once

#include <vector>

#include "core/device.h"
#include "cuda/device_number.h"
#include "kernels/adam.h"

namespace fastdl::cuda {

// Of one tensor, as in AdamItem and AdamFactors.
struct AdamNumbers {
  double step_size, inverse_root_correction, shrink;
};

// Tensors of each parameter. Those of params and others may differ in dtype, but that float64 goes
// with nothing else. max_exp_avg_sqs is null without AMSGrad.
struct AdamLists {
  const TensorList *params, *grads, *exp_avgs, *exp_avg_sqs, *max_exp_avg_sqs;
};

struct Adam {
  const Device& device;

  void adam_step(const AdamLists& lists, const std::vector<AdamNumbers>& numbers,
                 const AdamFactors<double>& factors) const;
  // Counts the steps where they are counted, and takes their numbers from there; the decay is that
  // of AdamW.
  void counted_step(const AdamLists& lists, const TensorList& counts, const DeviceNumber& lr,
                    double decoupled_decay, const GradScaling& scaling,
                    const AdamFactors<double>& factors) const;
};

}  // namespace fastdl::cuda
