// vec.h for any machine: one lane. Also the plainest statement of what the other bodies do.
#pragma once

namespace fastdl::FASTDL_ISA {

constexpr int kVecRegisters = 16;

template <typename T>
struct Vec {
  static constexpr int lanes = 1;
  T v;
};

template <typename T>
struct Mask {
  bool m;
};

#define FASTDL_T        \
  template <typename T> \
  FASTDL_INLINE

FASTDL_T Vec<T> load(const T* p) { return {*p}; }
FASTDL_T Vec<T> load(const T* p, int n) { return {n ? *p : T(0)}; }
FASTDL_T Vec<T> load(const T* p, Mask<T> m, Vec<T> outside) { return m.m ? load(p) : outside; }
FASTDL_T void store(T* p, Vec<T> a) { *p = a.v; }
FASTDL_T void store(T* p, Vec<T> a, int n) {
  if (n) *p = a.v;
}
FASTDL_T void stream(T* p, Vec<T> a) { *p = a.v; }
FASTDL_INLINE Vec<float> broadcast(float x) { return {x}; }
FASTDL_INLINE Vec<double> broadcast(double x) { return {x}; }
FASTDL_T void keep(Vec<T>&) {}

FASTDL_INLINE Vec<float> load(const bfloat16* p) {
  return {__builtin_bit_cast(float, uint32_t{p->bits} << 16)};
}
FASTDL_INLINE void store(bfloat16* p, Vec<float> a) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, a.v);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);  // ties to even
  p->bits = static_cast<uint16_t>((a.v != a.v ? bits | 0x400000 : rounded) >> 16);
}
FASTDL_INLINE Vec<float> load(const float16* p) {
  const uint32_t sign = uint32_t{p->bits} << 16 & 0x80000000, magnitude = p->bits & 0x7fff;
  uint32_t bits = (magnitude << 13) + (112 << 23);  // the exponents' biases are 15 and 127
  if (magnitude >= 0x7c00) bits = magnitude << 13 | 0x7f800000;
  if (magnitude < 0x400) {  // denormal
    bits = __builtin_bit_cast(uint32_t, static_cast<float>(magnitude) * 0x1p-24f);
  }
  return {__builtin_bit_cast(float, sign | bits)};
}
FASTDL_INLINE void store(float16* p, Vec<float> a) {
  const uint32_t all = __builtin_bit_cast(uint32_t, a.v), bits = all & 0x7fffffff;
  uint32_t magnitude = (bits + 0xfff + (bits >> 13 & 1) - (112 << 23)) >> 13;  // ties to even
  if (bits < 0x38800000) {  // denormal: 2^-24, its unit, is the last bit of a sum with 0.5
    magnitude = __builtin_bit_cast(uint32_t, __builtin_fabsf(a.v) + 0.5f) -
                __builtin_bit_cast(uint32_t, 0.5f);
  }
  if (bits >= 0x477ff000) magnitude = 0x7c00;  // from 65520 on: infinity
  if (bits > 0x7f800000) magnitude = 0x7e00 | (bits >> 13 & 0x3ff);
  p->bits = static_cast<uint16_t>((all >> 16 & 0x8000) | magnitude);
}
FASTDL_INLINE Vec<float> load(const bfloat16* p, int n) { return n ? load(p) : Vec<float>{0}; }
FASTDL_INLINE Vec<float> load(const float16* p, int n) { return n ? load(p) : Vec<float>{0}; }
FASTDL_INLINE void store(bfloat16* p, Vec<float> a, int n) {
  if (n) store(p, a);
}
FASTDL_INLINE void store(float16* p, Vec<float> a, int n) {
  if (n) store(p, a);
}

FASTDL_T Vec<T> operator+(Vec<T> a, Vec<T> b) { return {a.v + b.v}; }
FASTDL_T Vec<T> operator-(Vec<T> a, Vec<T> b) { return {a.v - b.v}; }
FASTDL_T Vec<T> operator*(Vec<T> a, Vec<T> b) { return {a.v * b.v}; }
FASTDL_T Vec<T> operator/(Vec<T> a, Vec<T> b) { return {a.v / b.v}; }
FASTDL_T Vec<T> operator-(Vec<T> a) { return {-a.v}; }
FASTDL_INLINE Vec<float> sqrt(Vec<float> a) { return {__builtin_sqrtf(a.v)}; }
FASTDL_INLINE Vec<double> sqrt(Vec<double> a) { return {__builtin_sqrt(a.v)}; }
FASTDL_INLINE Vec<float> abs(Vec<float> a) { return {__builtin_fabsf(a.v)}; }
FASTDL_INLINE Vec<double> abs(Vec<double> a) { return {__builtin_fabs(a.v)}; }
// Without a fused instruction: two roundings.
FASTDL_T Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) { return {a.v * b.v + c.v}; }
FASTDL_T Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return {c.v - a.v * b.v}; }
FASTDL_T Vec<T> max(Vec<T> a, Vec<T> b) { return {a.v > b.v ? a.v : b.v}; }
FASTDL_T Vec<T> min(Vec<T> a, Vec<T> b) { return {a.v < b.v ? a.v : b.v}; }
FASTDL_INLINE Vec<float> round(Vec<float> a) { return {__builtin_rintf(a.v)}; }
FASTDL_INLINE Vec<double> round(Vec<double> a) { return {__builtin_rint(a.v)}; }
FASTDL_INLINE Vec<float> scale_by_power(Vec<float> a, Vec<float> n) {
  return {__builtin_ldexpf(a.v, static_cast<int>(n.v))};
}
FASTDL_INLINE Vec<double> scale_by_power(Vec<double> a, Vec<double> n) {
  return {__builtin_ldexp(a.v, static_cast<int>(n.v))};
}

FASTDL_T Mask<T> operator<(Vec<T> a, Vec<T> b) { return {a.v < b.v}; }
FASTDL_T Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {a.v <= b.v}; }
FASTDL_T Mask<T> operator>(Vec<T> a, Vec<T> b) { return {a.v > b.v}; }
FASTDL_T Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {a.v >= b.v}; }
FASTDL_T Mask<T> operator==(Vec<T> a, Vec<T> b) { return {a.v == b.v}; }
FASTDL_T Mask<T> operator!=(Vec<T> a, Vec<T> b) { return {a.v != b.v}; }
FASTDL_T Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.m && b.m}; }
FASTDL_T Mask<T> operator|(Mask<T> a, Mask<T> b) { return {a.m || b.m}; }
FASTDL_T Mask<T> operator~(Mask<T> a) { return {!a.m}; }
FASTDL_T bool any(Mask<T> a) { return a.m; }
FASTDL_T bool all(Mask<T> a) { return a.m; }
FASTDL_T Mask<T> first_lanes(int n) { return {n > 0}; }
FASTDL_T Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return {m.m ? a.v : b.v}; }

FASTDL_T Vec<T> even_lanes(Vec<T> a, Vec<T>) { return a; }
FASTDL_T Vec<T> odd_lanes(Vec<T>, Vec<T> b) { return b; }
FASTDL_T Vec<T> interleave_low(Vec<T> a, Vec<T>) { return a; }
FASTDL_T Vec<T> interleave_high(Vec<T>, Vec<T> b) { return b; }

FASTDL_T T reduce_add(Vec<T> a) { return a.v; }
FASTDL_T T reduce_max(Vec<T> a) { return a.v; }

#undef FASTDL_T

}  // namespace fastdl::FASTDL_ISA
