// The activations of one element, for activations.cu and the epilogues of products.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

// exp never overflows, and small results keep their relative accuracy.
template <typename C>
__device__ C sigmoid(C x) {
  const C e = exp(-fabs(x));
  return (x < 0 ? e : 1) / (1 + e);
}

struct Relu {
  template <typename C>
  __device__ C operator()(C x) const {
    return x < 0 ? C{0} : x;  // NaN stays
  }
};

struct Gelu {
  template <typename C>
  __device__ C operator()(C x) const {
    return x * (erfc(x * C(-0.70710678118654752440)) / 2);
  }
};

// u of gelu(x) = x sigmoid(2 u), and its derivative. At |x| = 40 the sigmoid is 0 or 1, and no
// power of x overflows.
template <typename C>
__device__ C clamped(C x) {
  return x < -40 ? C{-40} : x > 40 ? C{40} : x;
}
template <typename C>
__device__ C gelu_tanh_argument(C x) {
  const C c = clamped(x);
  return C(0.79788456080286535588) * (c + C(0.044715) * c * c * c);
}
template <typename C>
__device__ C gelu_tanh_slope(C x) {
  const C c = clamped(x);
  return C(0.79788456080286535588) * (1 + C(3 * 0.044715) * c * c);
}

struct GeluTanh {
  template <typename C>
  __device__ C operator()(C x) const {
    return x * sigmoid(2 * gelu_tanh_argument(x));
  }
};

}  // namespace fastdl::cuda
