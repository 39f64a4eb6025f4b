#pragma once

#include <array>
#include <optional>
#include <string>

#include "core/output.h"
#include "kernels/conv2d.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

struct Conv2dOptions {
  HeightWidth stride, padding, dilation;
  std::optional<std::string> padding_mode;  // "same" or "valid", in place of `padding`
  int64_t groups;
};

// 16-bit arrays, where the CPU multiplies them, for windows of 1x1, stride 1, no padding and one
// group, and forward for those that conv2d_takes_windows; floats for all others. bias is null
// without one; packed: what pack_conv2d_weight made of the weight, or null.
void conv2d_forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* packed,
                    const Tensor* bias, const Conv2dOptions& options,
                    const EpilogueOptions& epilogue);
// The weight as the kernel for a stride and dilation of 1 wants it; empty if that takes it as it
// is.
void pack_conv2d_weight(Output& packed, const Tensor& weight, int64_t groups);
// output_mask: which of dx, dweight and dbias to compute.
void conv2d_backward(Output& dx, Output& dweight, Output& dbias, const Tensor& dy, const Tensor& x,
                     const Tensor& weight, const Conv2dOptions& options,
                     const std::array<bool, 3>& output_mask);

}  // namespace fastdl::ops
