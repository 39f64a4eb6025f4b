#pragma once

#include <vector>

#include "core/device.h"
#include "cuda/device_number.h"
#include "kernels/sgd.h"

namespace fastdl::cuda {

struct Sgd {
  const Device& device;

  // The lists are as Adam has them. momentum_buffers is null without momentum; first[i]: the buffer
  // of tensor i holds nothing yet. The rate is lr, not that of the factors.
  void sgd_step(const TensorList& params, const TensorList& grads,
                const TensorList* momentum_buffers, const std::vector<uint8_t>& first,
                const SgdFactors<double>& factors, const DeviceNumber& lr,
                const GradScaling& scaling) const;
};

}  // namespace fastdl::cuda
