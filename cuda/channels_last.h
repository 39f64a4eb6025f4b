#pragma once

#include "core/device.h"

namespace fastdl::cuda {

struct ChannelsLast {
  const Device& device;

  // y, (batch, columns, rows), of x, (batch, rows, columns), of any float dtype.
  void transpose(const Tensor& y, const Tensor& x, int64_t batch, int64_t rows,
                 int64_t columns) const;
};

}  // namespace fastdl::cuda
