#pragma once

#include "core/output.h"
#include "ops/channels_last.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

// Both may be null. With codes, either codes or indices are made: the gradient of few taps is
// gathered by codes, bytes that tell the tap of its window which each maximum is.
struct MaxPoolOutputs {
  Output& y;
  Output* indices = nullptr;
  Output* codes = nullptr;
};

void max_pool2d_forward(const MaxPoolOutputs& to, const Tensor& x, const PoolOptions& options);
void max_pool2d_backward_codes(Output& dx, const Tensor& dy, const Tensor& codes,
                               const Shape& input_size, const PoolOptions& options);
void max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                         const Shape& input_size);

// The same with the channels first, for channels-last x whose windows have no kernel of their own.
template <typename Forward>
void maxima_channels_first(const MaxPoolOutputs& to, const Tensor& x, Forward&& forward) {
  const ChannelsFirst x_(x);
  make_channels_last(to.y, [&](Output& y) { forward({y, to.indices}, x_.tensor()); });
}

// Forward and the gradient by codes, with the kernel that suits the windows; T = float or double.
template <typename T>
void maxima(const char* op, const MaxPoolOutputs& to, const Tensor& x, const PoolShape& shape);
void gather_from_maxima(const char* op, Output& dx, const Tensor& dy, const Tensor& codes,
                        const Shape& input_size, const PoolShape& shape);

// The backward of any windows: `lowest` is the smallest index that is right, and from dimension
// `first` on nothing may be empty.
void scatter_to_maxima(const char* op, Output& dx, const Tensor& dy, const Tensor& indices,
                       const Shape& input_size, int64_t lowest, int first);

}  // namespace fastdl::ops
