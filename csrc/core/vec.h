// SIMD written once: Vec<T> holds `Vec<T>::lanes` values of T, for T = float and double.
//
// FASTDL_VEC_HEADER is the body for one ISA (vec_scalar.h, vec_avx2.h, vec_avx512.h, vec_neon.h);
// it lives in the ISA's namespace, and all bodies offer the same functions:
//
//   load(p), load(p, n)            lanes from memory; the first n lanes, the others 0
//   load(p, m, outside)            the lanes of the mask m; the others are outside's, not read
//   store(p, v), store(p, v, n)    lanes to memory; only the first n
//                                  p may be bfloat16* or float16* for Vec<float>: widened, rounded
//                                  to nearest even, NaN quiet, denormals kept
//   stream(p, v)                   store past the caches; p aligned to the vector
//   broadcast(x)
//   keep(v)                        v stays in a register: GCC would load it again for every use
//   + - * / unary-, sqrt, abs
//   fma(a, b, c) = a * b + c       fnma(a, b, c) = c - a * b
//   max(a, b) = a > b ? a : b      min(a, b) = a < b ? a : b      (so b when either is NaN)
//   round(v)                       to the nearest integer, ties to even
//   scale_by_power(v, n)           v * 2^n for integral n; right into the denormals
//   < <= > >= == !=                -> Mask<T>, with & | ~, any(m), all(m); false on NaN, but !=
//   true first_lanes<T>(n)              the mask of the first n lanes select(m, a, b) m ? a : b
//   reduce_add(v), reduce_max(v)   over the lanes, in a fixed order
//   even_lanes(a, b), odd_lanes(a, b)                a0 a2 .. b0 b2 ..,  a1 a3 .. b1 b3 ..
//   interleave_low(a, b), interleave_high(a, b)      the two halves of  a0 b0 a1 b1 ..
//   kVecRegisters                  how many vectors the registers hold
//
// The tail of a loop goes through load(p, n), so tail and body compute alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/half.h"
#include "core/isa.h"

namespace fastdl::FASTDL_ISA {

template <typename T>
struct Vec;
template <typename T>
struct Mask;

}  // namespace fastdl::FASTDL_ISA

#include FASTDL_VEC_HEADER

namespace fastdl::FASTDL_ISA {

template <typename T>
FASTDL_INLINE Vec<T> zero() {
  return broadcast(T(0));
}

template <typename T>
FASTDL_INLINE Vec<T>& operator+=(Vec<T>& a, Vec<T> b) {
  return a = a + b;
}

template <typename T>
FASTDL_INLINE Mask<T> is_nan(Vec<T> v) {
  return v != v;
}

// The N vectors, a power of two, one element of each in turn: the rows of a matrix (N, lanes)
// become those of its transpose, laid out as one run of N * lanes elements.
template <typename T, int N>
FASTDL_INLINE void interleave(Vec<T> (&v)[N]) {
#pragma GCC unroll 4
  for (int step = 1; step < N; step *= 2) {
    Vec<T> mixed[N];
#pragma GCC unroll 16
    for (int i = 0; i < N / 2; ++i) {
      mixed[2 * i] = interleave_low(v[i], v[i + N / 2]);
      mixed[2 * i + 1] = interleave_high(v[i], v[i + N / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) v[i] = mixed[i];
  }
}

// The sum over the lanes of v[i] in lane i: the tree of `interleave`, adding on the way.
template <typename T>
FASTDL_INLINE Vec<T> lane_sums(Vec<T> (&v)[Vec<T>::lanes]) {
#pragma GCC unroll 4
  for (int n = Vec<T>::lanes / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      v[i] = interleave_low(v[i], v[i + n]) + interleave_high(v[i], v[i + n]);
    }
  }
  return v[0];
}

// step(i, lanes) for i = 0, lanes, 2 * lanes, ... below n. The last call may have fewer lanes; all
// others have the constant Vec<T>::lanes, so that load(p, lanes) costs what load(p) does.
template <typename T, typename Step>
FASTDL_INLINE void for_each_vec(int64_t n, Step&& step) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) step(i, lanes);
  if (i < n) step(i, static_cast<int>(n - i));
}

// a * b + c in the lanes of the mask, c in the others. AVX-512 has an instruction for it.
template <typename T>
FASTDL_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c, Mask<T> m) {
  return select(m, fma(a, b, c), c);
}

// load(p + N); here = load(p), next = load(p + lanes), from which AVX-512 takes it.
template <int N, typename T>
FASTDL_INLINE Vec<T> load_beyond(const T* p, Vec<T>, Vec<T>) {
  return load(p + N);
}

}  // namespace fastdl::FASTDL_ISA
