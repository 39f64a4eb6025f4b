#pragma once

#include <optional>

#include "core/output.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

struct AvgPoolOptions : PoolOptions {
  bool count_include_pad = true;
  std::optional<int64_t> divisor_override;
};

void avg_pool2d_forward(Output& y, const Tensor& x, const AvgPoolOptions& options);
void avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size,
                         const AvgPoolOptions& options);

}  // namespace fastdl::ops
