// Reductions over the lanes of a warp and the threads of a block, in an order that is always the
// same. Every thread gets the result.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
// NaN wins.
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

// By merge(a, b), which types that are more than a number have their own of.
__device__ inline float merge(float a, float b) { return a + b; }
__device__ inline double merge(double a, double b) { return a + b; }
struct Merge {
  template <typename T>
  __device__ T operator()(const T& a, const T& b) const {
    return merge(a, b);
  }
};

// The value of the lane whose number differs in the bits of `mask`; of any type of whole words.
template <typename T>
__device__ T shuffle_xor(T value, int mask) {
  static_assert(sizeof(T) % sizeof(unsigned) == 0);
  unsigned words[sizeof(T) / sizeof(unsigned)];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (unsigned& word : words) word = __shfl_xor_sync(kAllLanes, word, mask);
  memcpy(&value, words, sizeof(T));
  return value;
}

// Of each `width` lanes, a power of two.
template <typename T, typename Op>
__device__ T warp_reduce(T value, Op op, int width = kWarp) {
  for (int step = width / 2; step > 0; step /= 2) value = op(value, shuffle_xor(value, step));
  return value;
}

// Of the threads of a block with one threadIdx.y: either whole warps, and then there is no other
// threadIdx.y, or a power of two of them below 32. `none` changes no result.
template <typename T, typename Op>
__device__ T row_reduce(T value, Op op, T none) {
  const int threads = static_cast<int>(blockDim.x);
  if (threads <= kWarp) return warp_reduce(value, op, threads);
  alignas(16) __shared__ unsigned char bytes[kWarp * sizeof(T)];
  T* const of_warps = reinterpret_cast<T*>(bytes);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  value = warp_reduce(value, op);
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  value = warp_reduce(lane < threads / kWarp ? of_warps[lane] : none, op);
  __syncthreads();  // before the next reduction writes there
  return value;
}

}  // namespace fastdl::cuda
