#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// All arrays hold n values; y may be x and dx may be dy.
template <typename T>
struct ActivationKernels {
  using Forward = void (*)(T* y, const T* x, int64_t n);
  using Backward = void (*)(T* dx, const T* dy, const T* x,
                            int64_t n);  // sigmoid and tanh: y for x
  using ScaledForward = void (*)(T* y, const T* x, int64_t n, T scale);
  using ScaledBackward = void (*)(T* dx, const T* dy, const T* x, int64_t n, T scale);

  Forward relu_forward;
  Backward relu_backward;
  Forward relu6_forward;
  Backward relu6_backward;
  ScaledForward leaky_relu_forward;  // scale: negative_slope
  ScaledBackward leaky_relu_backward;
  ScaledForward elu_forward;  // scale: alpha
  ScaledBackward elu_backward;
  Forward sigmoid_forward;
  Backward sigmoid_backward;
  Forward tanh_forward;
  Backward tanh_backward;
  Forward silu_forward;
  Backward silu_backward;
  Forward gelu_forward;
  Backward gelu_backward;
  Forward gelu_tanh_forward;
  Backward gelu_tanh_backward;
};

FASTDL_DECLARE_KERNELS(ActivationKernels, activation_kernels)

}  // namespace fastdl
