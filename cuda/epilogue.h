// y = activation(sum + bias + residual), rounded once: what products and convolutions do with their
// sums.
#pragma once

#include "core/epilogue.h"
#include "cuda/activation_functions.h"

namespace fastdl::cuda {

template <typename T>
struct Finish {
  T* y;
  const T* bias;      // may be null
  const T* residual;  // laid out like y; may be null
  Activation activation;

  __device__ void put(int64_t at, int64_t bias_at, Compute<T> sum) const {
    if (bias) sum += widen(bias[bias_at]);
    if (residual) sum += widen(residual[at]);
    switch (activation) {
      case Activation::none:
        break;
      case Activation::relu:
        sum = Relu()(sum);
        break;
      case Activation::gelu:
        sum = Gelu()(sum);
        break;
      case Activation::gelu_tanh:
        sum = GeluTanh()(sum);
        break;
    }
    y[at] = narrow<T>(sum);
  }
};

}  // namespace fastdl::cuda
