// vec.h for NEON (AArch64). A mask is a vector of all-one or all-zero lanes.
#pragma once

#include <arm_neon.h>

namespace fastdl::FASTDL_ISA {

constexpr int kVecRegisters = 32;

template <>
struct Vec<float> {
  static constexpr int lanes = 4;
  float32x4_t v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 2;
  float64x2_t v;
};
template <>
struct Mask<float> {
  uint32x4_t m;
};
template <>
struct Mask<double> {
  uint64x2_t m;
};

using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

template <typename T>
Mask<T> first_lanes(int n);
template <>
FASTDL_INLINE MaskF first_lanes<float>(int n) {
  const uint32_t lane[] = {0, 1, 2, 3};
  return {vcltq_u32(vld1q_u32(lane), vdupq_n_u32(static_cast<uint32_t>(n)))};
}
template <>
FASTDL_INLINE MaskD first_lanes<double>(int n) {
  const uint64_t lane[] = {0, 1};
  return {vcltq_u64(vld1q_u64(lane), vdupq_n_u64(static_cast<uint64_t>(n)))};
}

FASTDL_INLINE VecF broadcast(float x) { return {vdupq_n_f32(x)}; }
FASTDL_INLINE VecD broadcast(double x) { return {vdupq_n_f64(x)}; }
FASTDL_INLINE void keep(VecF& a) { asm("" : "+w"(a.v)); }
FASTDL_INLINE void keep(VecD& a) { asm("" : "+w"(a.v)); }
FASTDL_INLINE VecF load(const float* p) { return {vld1q_f32(p)}; }
FASTDL_INLINE VecD load(const double* p) { return {vld1q_f64(p)}; }
FASTDL_INLINE void store(float* p, VecF a) { vst1q_f32(p, a.v); }
FASTDL_INLINE void store(double* p, VecD a) { vst1q_f64(p, a.v); }
// NEON has no masked memory access: the tail goes through a full vector on the stack.
template <typename T>
FASTDL_INLINE Vec<T> load(const T* p, int n) {
  T lanes[Vec<T>::lanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <typename T>
FASTDL_INLINE void store(T* p, Vec<T> a, int n) {
  T lanes[Vec<T>::lanes];
  store(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
template <typename T>
FASTDL_INLINE void stream(T* p, Vec<T> a) {
  store(p, a);
}
FASTDL_INLINE VecF load(const bfloat16* p) {
  return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16))};
}
FASTDL_INLINE VecF load(const float16* p) {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)))};
}
FASTDL_INLINE void store(bfloat16* p, VecF a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a.v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t half = vaddq_u32(vdupq_n_u32(0x7fff), odd);  // ties to even
  const uint32x4_t rounded =
      vbslq_u32(vceqq_f32(a.v, a.v), vaddq_u32(bits, half), vorrq_u32(bits, vdupq_n_u32(0x400000)));
  vst1_u16(&p->bits, vshrn_n_u32(rounded, 16));
}
FASTDL_INLINE void store(float16* p, VecF a) {
  vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(a.v)));
}

FASTDL_INLINE VecF operator+(VecF a, VecF b) { return {vaddq_f32(a.v, b.v)}; }
FASTDL_INLINE VecD operator+(VecD a, VecD b) { return {vaddq_f64(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a, VecF b) { return {vsubq_f32(a.v, b.v)}; }
FASTDL_INLINE VecD operator-(VecD a, VecD b) { return {vsubq_f64(a.v, b.v)}; }
FASTDL_INLINE VecF operator*(VecF a, VecF b) { return {vmulq_f32(a.v, b.v)}; }
FASTDL_INLINE VecD operator*(VecD a, VecD b) { return {vmulq_f64(a.v, b.v)}; }
FASTDL_INLINE VecF operator/(VecF a, VecF b) { return {vdivq_f32(a.v, b.v)}; }
FASTDL_INLINE VecD operator/(VecD a, VecD b) { return {vdivq_f64(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a) { return {vnegq_f32(a.v)}; }
FASTDL_INLINE VecD operator-(VecD a) { return {vnegq_f64(a.v)}; }
FASTDL_INLINE VecF sqrt(VecF a) { return {vsqrtq_f32(a.v)}; }
FASTDL_INLINE VecD sqrt(VecD a) { return {vsqrtq_f64(a.v)}; }
FASTDL_INLINE VecF abs(VecF a) { return {vabsq_f32(a.v)}; }
FASTDL_INLINE VecD abs(VecD a) { return {vabsq_f64(a.v)}; }
FASTDL_INLINE VecF fma(VecF a, VecF b, VecF c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
FASTDL_INLINE VecD fma(VecD a, VecD b, VecD c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
FASTDL_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
FASTDL_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {vfmsq_f64(c.v, a.v, b.v)}; }
FASTDL_INLINE VecF round(VecF a) { return {vrndnq_f32(a.v)}; }
FASTDL_INLINE VecD round(VecD a) { return {vrndnq_f64(a.v)}; }

FASTDL_INLINE MaskF operator<(VecF a, VecF b) { return {vcltq_f32(a.v, b.v)}; }
FASTDL_INLINE MaskD operator<(VecD a, VecD b) { return {vcltq_f64(a.v, b.v)}; }
FASTDL_INLINE MaskF operator<=(VecF a, VecF b) { return {vcleq_f32(a.v, b.v)}; }
FASTDL_INLINE MaskD operator<=(VecD a, VecD b) { return {vcleq_f64(a.v, b.v)}; }
FASTDL_INLINE MaskF operator>(VecF a, VecF b) { return b < a; }
FASTDL_INLINE MaskD operator>(VecD a, VecD b) { return b < a; }
FASTDL_INLINE MaskF operator>=(VecF a, VecF b) { return b <= a; }
FASTDL_INLINE MaskD operator>=(VecD a, VecD b) { return b <= a; }
FASTDL_INLINE MaskF operator==(VecF a, VecF b) { return {vceqq_f32(a.v, b.v)}; }
FASTDL_INLINE MaskD operator==(VecD a, VecD b) { return {vceqq_f64(a.v, b.v)}; }
FASTDL_INLINE MaskF operator~(MaskF a) { return {vmvnq_u32(a.m)}; }
FASTDL_INLINE MaskD operator~(MaskD a) {
  return {vreinterpretq_u64_u32(vmvnq_u32(vreinterpretq_u32_u64(a.m)))};
}
FASTDL_INLINE MaskF operator!=(VecF a, VecF b) { return ~(a == b); }
FASTDL_INLINE MaskD operator!=(VecD a, VecD b) { return ~(a == b); }
FASTDL_INLINE MaskF operator&(MaskF a, MaskF b) { return {vandq_u32(a.m, b.m)}; }
FASTDL_INLINE MaskD operator&(MaskD a, MaskD b) { return {vandq_u64(a.m, b.m)}; }
FASTDL_INLINE MaskF operator|(MaskF a, MaskF b) { return {vorrq_u32(a.m, b.m)}; }
FASTDL_INLINE MaskD operator|(MaskD a, MaskD b) { return {vorrq_u64(a.m, b.m)}; }
FASTDL_INLINE bool any(MaskF a) { return vmaxvq_u32(a.m) != 0; }
FASTDL_INLINE bool any(MaskD a) { return vmaxvq_u32(vreinterpretq_u32_u64(a.m)) != 0; }
FASTDL_INLINE bool all(MaskF a) { return vminvq_u32(a.m) != 0; }
FASTDL_INLINE bool all(MaskD a) { return vminvq_u32(vreinterpretq_u32_u64(a.m)) != 0; }
FASTDL_INLINE VecF select(MaskF m, VecF a, VecF b) { return {vbslq_f32(m.m, a.v, b.v)}; }
FASTDL_INLINE VecD select(MaskD m, VecD a, VecD b) { return {vbslq_f64(m.m, a.v, b.v)}; }
FASTDL_INLINE VecF load(const float* p, MaskF m, VecF outside) {
  if (all(m)) return load(p);
  float lanes[VecF::lanes];
  uint32_t inside[VecF::lanes];
  store(lanes, outside);
  vst1q_u32(inside, m.m);
  for (int i = 0; i < VecF::lanes; ++i) lanes[i] = inside[i] ? p[i] : lanes[i];
  return load(lanes);
}
FASTDL_INLINE VecD load(const double* p, MaskD m, VecD outside) {
  if (all(m)) return load(p);
  double lanes[VecD::lanes];
  uint64_t inside[VecD::lanes];
  store(lanes, outside);
  vst1q_u64(inside, m.m);
  for (int i = 0; i < VecD::lanes; ++i) lanes[i] = inside[i] ? p[i] : lanes[i];
  return load(lanes);
}

// vmaxq and vminq would return NaN for either argument; vec.h asks for b.
FASTDL_INLINE VecF max(VecF a, VecF b) { return select(a > b, a, b); }
FASTDL_INLINE VecD max(VecD a, VecD b) { return select(a > b, a, b); }
FASTDL_INLINE VecF min(VecF a, VecF b) { return select(a < b, a, b); }
FASTDL_INLINE VecD min(VecD a, VecD b) { return select(a < b, a, b); }

// In two halves, as in vec_avx2.h.
FASTDL_INLINE VecF scale_by_power(VecF a, VecF n) {
  const int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1);
  const auto power = [](int32x4_t e) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(e, vdupq_n_s32(127)), 23));
  };
  return {vmulq_f32(vmulq_f32(a.v, power(half)), power(vsubq_s32(whole, half)))};
}
FASTDL_INLINE VecD scale_by_power(VecD a, VecD n) {
  const int64x2_t whole = vcvtq_s64_f64(n.v), half = vshrq_n_s64(whole, 1);
  const auto power = [](int64x2_t e) {
    return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(e, vdupq_n_s64(1023)), 52));
  };
  return {vmulq_f64(vmulq_f64(a.v, power(half)), power(vsubq_s64(whole, half)))};
}

FASTDL_INLINE VecF even_lanes(VecF a, VecF b) { return {vuzp1q_f32(a.v, b.v)}; }
FASTDL_INLINE VecD even_lanes(VecD a, VecD b) { return {vuzp1q_f64(a.v, b.v)}; }
FASTDL_INLINE VecF odd_lanes(VecF a, VecF b) { return {vuzp2q_f32(a.v, b.v)}; }
FASTDL_INLINE VecD odd_lanes(VecD a, VecD b) { return {vuzp2q_f64(a.v, b.v)}; }
FASTDL_INLINE VecF interleave_low(VecF a, VecF b) { return {vzip1q_f32(a.v, b.v)}; }
FASTDL_INLINE VecD interleave_low(VecD a, VecD b) { return {vzip1q_f64(a.v, b.v)}; }
FASTDL_INLINE VecF interleave_high(VecF a, VecF b) { return {vzip2q_f32(a.v, b.v)}; }
FASTDL_INLINE VecD interleave_high(VecD a, VecD b) { return {vzip2q_f64(a.v, b.v)}; }

FASTDL_INLINE float reduce_add(VecF a) { return vaddvq_f32(a.v); }
FASTDL_INLINE double reduce_add(VecD a) { return vaddvq_f64(a.v); }
FASTDL_INLINE float reduce_max(VecF a) { return vmaxvq_f32(a.v); }
FASTDL_INLINE double reduce_max(VecD a) { return vmaxvq_f64(a.v); }

}  // namespace fastdl::FASTDL_ISA

#include "core/vec_half_tail.h"
