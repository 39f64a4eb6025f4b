#pragma once

#include "core/device.h"

namespace fastdl::cuda {

// x is (rows, size); mean and rstd (rows,); weight and bias (size,) or null. Parameters are of x's
// dtype or float32.
struct LayerNorm {
  const Device& device;

  void forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
               const Tensor* weight, const Tensor* bias, int64_t rows, int64_t size,
               double eps) const;
  // dx, dweight and dbias may be null; the latter two are of one dtype.
  void backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias, const Tensor& dy,
                const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor* weight,
                int64_t rows, int64_t size) const;
};

}  // namespace fastdl::cuda
