#pragma once

#include "core/device.h"

namespace fastdl::cuda {

// The launchers by the names of the CPU's table of kernels. Tensors of one float dtype,
// (outer, dim, inner); the sums run over dim.
struct Softmax {
  const Device& device;

  void softmax_forward(const Tensor& y, const Tensor& x, int64_t outer, int64_t dim,
                       int64_t inner) const;
  void softmax_backward(const Tensor& dx, const Tensor& dy, const Tensor& y, int64_t outer,
                        int64_t dim, int64_t inner) const;
  void log_softmax_forward(const Tensor& y, const Tensor& x, int64_t outer, int64_t dim,
                           int64_t inner) const;
  void log_softmax_backward(const Tensor& dx, const Tensor& dy, const Tensor& y, int64_t outer,
                            int64_t dim, int64_t inner) const;
};

}  // namespace fastdl::cuda
