// Elements as they lie and as they are computed with: 16-bit ones are loaded as float and rounded
// once, to nearest even, when they are stored.
#pragma once

#include <type_traits>

#include "core/tensor.h"
#include "cuda/launch.h"

#ifndef FASTDL_EMULATE_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastdl::cuda {

template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(bfloat16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

template <typename T>
__device__ T narrow(Compute<T> x);
template <>
__device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__device__ inline double narrow<double>(double x) {
  return x;
}

#ifdef FASTDL_EMULATE_CUDA
inline float widen(float16 x) { return static_cast<float>(__builtin_bit_cast(_Float16, x.bits)); }
template <>
inline float16 narrow<float16>(float x) {
  return {__builtin_bit_cast(uint16_t, static_cast<_Float16>(x))};
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
  const unsigned bits = __float_as_uint(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
#else
__device__ inline float widen(float16 x) { return __half2float(__ushort_as_half(x.bits)); }
template <>
__device__ inline float16 narrow<float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}
template <>
__device__ inline bfloat16 narrow<bfloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
#endif

// Elements that are loaded and stored at once: 16 bytes is the most a thread can.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};
template <typename T>
constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

// N numbers that lie side by side, in packs: the first is aligned.
template <typename T, int N>
__device__ void load_packs(Compute<T> (&values)[N], const T* from) {
  constexpr int kSize = kPackSize<T> < N ? kPackSize<T> : N;
#pragma unroll
  for (int i = 0; i < N; i += kSize) {
    const auto pack = *reinterpret_cast<const Pack<T, kSize>*>(from + i);
#pragma unroll
    for (int j = 0; j < kSize; ++j) values[i + j] = widen(pack.values[j]);
  }
}
template <typename T, int N>
__device__ void store_packs(T* to, const Compute<T> (&values)[N]) {
  constexpr int kSize = kPackSize<T> < N ? kPackSize<T> : N;
#pragma unroll
  for (int i = 0; i < N; i += kSize) {
    Pack<T, kSize> pack;
#pragma unroll
    for (int j = 0; j < kSize; ++j) pack.values[j] = narrow<T>(values[i + j]);
    *reinterpret_cast<Pack<T, kSize>*>(to + i) = pack;
  }
}

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Calls body.template operator()<T>() with the type of the elements.
template <typename Body>
void dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::float64:
      return body.template operator()<double>();
    case DType::bfloat16:
      return body.template operator()<bfloat16>();
    case DType::float16:
      return body.template operator()<float16>();
    default:
      return body.template operator()<float>();
  }
}

// Constants of numbers in kernels, which may not ask std::numeric_limits at run time.
__device__ inline float infinity(float) { return __uint_as_float(0x7f800000u); }
__device__ inline double infinity(double) { return static_cast<double>(infinity(0.0f)); }

}  // namespace fastdl::cuda
