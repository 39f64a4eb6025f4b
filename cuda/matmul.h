#pragma once

#include "core/device.h"
#include "core/epilogue.h"
#include "core/gemm_plan.h"

namespace fastdl::cuda {

struct Matmul {
  const Device& device;

  // C of the plan into out = activation(A B + bias + residual); bias and residual may be null. All
  // tensors have one dtype.
  void gemm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
            const GemmPlan& plan, Activation activation, const Tensor* residual) const;
};

}  // namespace fastdl::cuda
