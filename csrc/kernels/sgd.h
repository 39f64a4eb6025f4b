#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// The arrays of one parameter; momentum_buffer is null without momentum.
template <typename T>
struct SgdItem {
  T* param;
  const T* grad;
  T* momentum_buffer;
  bool first;           // step 1: the buffer holds nothing yet
  int64_t start, size;  // see kernels/tensor_list.h
};

template <typename T>
struct SgdFactors {
  T grad_sign;  // -1 to maximize
  T lr, weight_decay, momentum, one_minus_dampening;
  bool nesterov;
};

template <typename T>
struct SgdKernels {
  void (*sgd_step)(const SgdItem<T>* items, int64_t count, const SgdFactors<T>& factors);
};

FASTDL_DECLARE_KERNELS(SgdKernels, sgd_kernels)

}  // namespace fastdl
