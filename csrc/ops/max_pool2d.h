#pragma once

#include "core/output.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

// indices is null when nobody asks for them.
void max_pool2d_forward(Output& y, Output* indices, const Tensor& x, const PoolOptions& options);
void max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                         const Shape& input_size);

// Whether the kernel over rows is to be taken.
bool max_pool2d_by_rows(const PoolWindows& windows, bool with_indices);

// The backward of any windows: `lowest` is the smallest index that is right, and from dimension
// `first` on nothing may be empty.
void scatter_to_maxima(const char* op, Output& dx, const Tensor& dy, const Tensor& indices,
                       const Shape& input_size, int64_t lowest, int first);

}  // namespace fastdl::ops
