// The maximum of a slice and the sum of exp(x - maximum), in one pass.
#pragma once

#include "cuda/slices.h"

namespace fastdl::cuda {

template <typename C>
struct OnlineSum {
  C max, sum;
};

// exp(-inf - shift) is 0 where there is nothing but -inf, not NaN.
template <typename C>
__device__ C shift_of(C max) {
  return max == -infinity(C{}) ? C{0} : max;
}

template <typename C>
__device__ OnlineSum<C> merge(OnlineSum<C> a, OnlineSum<C> b) {
  const C max = Max()(a.max, b.max), shift = shift_of(max);
  return {max, a.sum * exp(a.max - shift) + b.sum * exp(b.max - shift)};
}

template <typename C>
struct OnlineForward {
  __device__ OnlineSum<C> none() const { return {-infinity(C{}), 0}; }

  template <int N, int I>
  __device__ void add(OnlineSum<C>& s, const Element<C, I> (&x)[N], int count) const {
    C max = s.max;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) max = Max()(x[k].in[0], max);
    }
    const C shift = shift_of(max);
    C sum = 0;  // of this chunk: a long sum would drift
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) sum += exp(x[k].in[0] - shift);
    }
    s.sum = s.sum * exp(s.max - shift) + sum;
    s.max = max;
  }
};

}  // namespace fastdl::cuda
