#pragma once

#include <optional>

#include "core/output.h"
#include "kernels/avg_pool2d.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

struct AvgPoolOptions : PoolOptions {
  bool count_include_pad = true;
  std::optional<int64_t> divisor_override;
};

void avg_pool2d_forward(Output& y, const Tensor& x, const AvgPoolOptions& options);
void avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size,
                         const AvgPoolOptions& options);

// Forward and backward with the kernel that suits the windows; for T = float and double.
template <typename T>
void average(const Tensor& y, const Tensor& x, const PoolShape& shape, AvgPoolDivisor divisor);
template <typename T>
void spread(const Tensor& dx, const Tensor& dy, const PoolShape& shape, AvgPoolDivisor divisor);

}  // namespace fastdl::ops
