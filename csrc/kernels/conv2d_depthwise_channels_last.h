#pragma once

#include "kernels/conv2d.h"

namespace fastdl {

// One input and one output channel a group; x, y and their gradients with the channels last, the
// weight (channels, kernel).
template <typename T>
struct Conv2dDepthwiseChannelsLastKernels {
  void (*forward)(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& sizes,
                  const Epilogue<T>& epilogue);
  // Each gradient may be null.
  void (*backward)(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
                   const Conv2dSizes& sizes);
};

FASTDL_DECLARE_KERNELS(Conv2dDepthwiseChannelsLastKernels, conv2d_depthwise_channels_last_kernels)

}  // namespace fastdl
