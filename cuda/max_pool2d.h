#pragma once

#include "core/device.h"
#include "kernels/pool_windows.h"

namespace fastdl::cuda {

// For windows of either kind. Images may be channels_last, and then codes are in that order too;
// indices are not, and go with planes alone. Codes: as csrc/kernels/max_pool2d.h has them for
// planes, windows of few taps, and pool_channels_last.h for images with the channels last.
struct MaxPool2d {
  const Device& device;

  // indices and codes may be null.
  template <typename Windows>
  void forward(const Tensor& y, const Tensor* indices, const Tensor* codes, const Tensor& x,
               const Windows& windows) const;
  template <typename Windows>
  void gather(const Tensor& dx, const Tensor& dy, const Tensor& codes,
              const Windows& windows) const;
  // Of planes. Indices out of range are left out: nobody waits for the device to hear of them.
  void scatter(const Tensor& dx, const Tensor& dy, const Tensor& indices) const;
};

}  // namespace fastdl::cuda
