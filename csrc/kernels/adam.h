#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// The arrays of one parameter; max_exp_avg_sq is null without AMSGrad.
template <typename T>
struct AdamItem {
  T* param;
  const T* grad;
  T* exp_avg;
  T* exp_avg_sq;
  T* max_exp_avg_sq;
  T step_size;                // lr / (1 - beta1^t), t the count of this parameter's steps
  T inverse_root_correction;  // 1 / sqrt(1 - beta2^t)
  int64_t start, size;        // see kernels/tensor_list.h
};

// What all parameters share.
template <typename T>
struct AdamFactors {
  T grad_sign;      // -1 to maximize
  T coupled_decay;  // Adam: added to the gradient, times param
  T shrink;         // AdamW: multiplies param
  T beta1, one_minus_beta1;
  T beta2, one_minus_beta2;
  T eps;
};

template <typename T>
struct AdamKernels {
  void (*adam_step)(const AdamItem<T>* items, int64_t count, const AdamFactors<T>& factors);
};

FASTDL_DECLARE_KERNELS(AdamKernels, adam_kernels)

}  // namespace fastdl
