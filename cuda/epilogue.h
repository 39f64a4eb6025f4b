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
  Activation activation = Activation::none;

  __device__ void put(int64_t at, int64_t bias_at, Compute<T> sum) const {
    if (bias) sum += widen(bias[bias_at]);
    if (residual) sum += widen(residual[at]);
    if (activation != Activation::none) sum = activate(sum, activation);
    y[at] = narrow<T>(sum);
  }
  // N neighbours, whose biases lie bias_step apart.
  template <int N>
  __device__ void put_pack(int64_t at, int64_t bias_at, int64_t bias_step,
                           const Compute<T> (&sums)[N]) const {
    Compute<T> values[N], more[N];
    if (residual) load_packs(more, residual + at);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = sums[i];
      if (bias) values[i] += widen(bias[bias_at + i * bias_step]);
      if (residual) values[i] += more[i];
      if (activation != Activation::none) values[i] = activate(values[i], activation);
    }
    store_packs(y + at, values);
  }
  bool aligned() const { return is_aligned(y) && is_aligned(residual); }

 private:
  // Out of line: a thread of a product has 64 elements, and this 100 instructions.
  __device__ FASTDL_OUT_OF_LINE static Compute<T> activate(Compute<T> x, Activation activation) {
    switch (activation) {
      case Activation::relu:
        return Relu()(x);
      case Activation::gelu:
        return Gelu()(x);
      default:
        return GeluTanh()(x);
    }
  }
};

}  // namespace fastdl::cuda
