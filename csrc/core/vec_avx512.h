// vec.h for AVX-512 (F, BW, CD, DQ, VL: x86-64-v4).
#pragma once

#include <immintrin.h>

namespace fastdl::FASTDL_ISA {

constexpr int kVecRegisters = 32;

template <>
struct Vec<float> {
  static constexpr int lanes = 16;
  __m512 v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 8;
  __m512d v;
};
template <>
struct Mask<float> {
  __mmask16 m;
};
template <>
struct Mask<double> {
  __mmask8 m;
};

using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

template <typename T>
Mask<T> first_lanes(int n);
template <>
FASTDL_INLINE MaskF first_lanes<float>(int n) {
  return {static_cast<__mmask16>((1u << n) - 1)};
}
template <>
FASTDL_INLINE MaskD first_lanes<double>(int n) {
  return {static_cast<__mmask8>((1u << n) - 1)};
}

FASTDL_INLINE VecF load(const float* p) { return {_mm512_loadu_ps(p)}; }
FASTDL_INLINE VecD load(const double* p) { return {_mm512_loadu_pd(p)}; }
FASTDL_INLINE VecF load(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes<float>(n).m, p)};
}
FASTDL_INLINE VecD load(const double* p, int n) {
  return {_mm512_maskz_loadu_pd(first_lanes<double>(n).m, p)};
}
FASTDL_INLINE VecF load(const float* p, MaskF m, VecF outside) {
  return {_mm512_mask_loadu_ps(outside.v, m.m, p)};
}
FASTDL_INLINE VecD load(const double* p, MaskD m, VecD outside) {
  return {_mm512_mask_loadu_pd(outside.v, m.m, p)};
}
FASTDL_INLINE void store(float* p, VecF a) { _mm512_storeu_ps(p, a.v); }
FASTDL_INLINE void store(double* p, VecD a) { _mm512_storeu_pd(p, a.v); }
FASTDL_INLINE void store(float* p, VecF a, int n) {
  _mm512_mask_storeu_ps(p, first_lanes<float>(n).m, a.v);
}
FASTDL_INLINE void store(double* p, VecD a, int n) {
  _mm512_mask_storeu_pd(p, first_lanes<double>(n).m, a.v);
}
FASTDL_INLINE void stream(float* p, VecF a) { _mm512_stream_ps(p, a.v); }
FASTDL_INLINE void stream(double* p, VecD a) { _mm512_stream_pd(p, a.v); }
FASTDL_INLINE VecF broadcast(float x) { return {_mm512_set1_ps(x)}; }
FASTDL_INLINE VecD broadcast(double x) { return {_mm512_set1_pd(x)}; }
FASTDL_INLINE void keep(VecF& a) { asm("" : "+v"(a.v)); }
FASTDL_INLINE void keep(VecD& a) { asm("" : "+v"(a.v)); }

FASTDL_INLINE VecF from_bfloat16(__m256i halves) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
FASTDL_INLINE __m256i to_bfloat16(VecF a) {
  const __m512i bits = _mm512_castps_si512(a.v), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);  // ties to even
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i rounded =
      _mm512_mask_or_epi32(_mm512_add_epi32(bits, half), nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
FASTDL_INLINE VecF from_float16(__m256i halves) { return {_mm512_cvtph_ps(halves)}; }
FASTDL_INLINE __m256i to_float16(VecF a) {
  return _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
FASTDL_INLINE __m256i load_halves(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
FASTDL_INLINE __m256i load_halves(const void* p, int n) {
  return _mm256_maskz_loadu_epi16(first_lanes<float>(n).m, p);
}
FASTDL_INLINE void store_halves(void* p, __m256i halves) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), halves);
}
FASTDL_INLINE void store_halves(void* p, __m256i halves, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes<float>(n).m, halves);
}
FASTDL_INLINE VecF load(const bfloat16* p) { return from_bfloat16(load_halves(p)); }
FASTDL_INLINE VecF load(const float16* p) { return from_float16(load_halves(p)); }
FASTDL_INLINE VecF load(const bfloat16* p, int n) { return from_bfloat16(load_halves(p, n)); }
FASTDL_INLINE VecF load(const float16* p, int n) { return from_float16(load_halves(p, n)); }
FASTDL_INLINE void store(bfloat16* p, VecF a) { store_halves(p, to_bfloat16(a)); }
FASTDL_INLINE void store(float16* p, VecF a) { store_halves(p, to_float16(a)); }
FASTDL_INLINE void store(bfloat16* p, VecF a, int n) { store_halves(p, to_bfloat16(a), n); }
FASTDL_INLINE void store(float16* p, VecF a, int n) { store_halves(p, to_float16(a), n); }

FASTDL_INLINE VecF operator+(VecF a, VecF b) { return {_mm512_add_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator+(VecD a, VecD b) { return {_mm512_add_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a, VecF b) { return {_mm512_sub_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator-(VecD a, VecD b) { return {_mm512_sub_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator*(VecF a, VecF b) { return {_mm512_mul_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator*(VecD a, VecD b) { return {_mm512_mul_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator/(VecF a, VecF b) { return {_mm512_div_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator/(VecD a, VecD b) { return {_mm512_div_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
FASTDL_INLINE VecD operator-(VecD a) { return {_mm512_xor_pd(a.v, _mm512_set1_pd(-0.0))}; }
FASTDL_INLINE VecF sqrt(VecF a) { return {_mm512_sqrt_ps(a.v)}; }
FASTDL_INLINE VecD sqrt(VecD a) { return {_mm512_sqrt_pd(a.v)}; }
FASTDL_INLINE VecF abs(VecF a) { return {_mm512_abs_ps(a.v)}; }
FASTDL_INLINE VecD abs(VecD a) { return {_mm512_abs_pd(a.v)}; }
FASTDL_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FASTDL_INLINE VecD fma(VecD a, VecD b, VecD c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
FASTDL_INLINE VecF fma(VecF a, VecF b, VecF c, MaskF m) {
  return {_mm512_mask3_fmadd_ps(a.v, b.v, c.v, m.m)};
}
FASTDL_INLINE VecD fma(VecD a, VecD b, VecD c, MaskD m) {
  return {_mm512_mask3_fmadd_pd(a.v, b.v, c.v, m.m)};
}
FASTDL_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FASTDL_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
FASTDL_INLINE VecF max(VecF a, VecF b) { return {_mm512_max_ps(a.v, b.v)}; }
FASTDL_INLINE VecD max(VecD a, VecD b) { return {_mm512_max_pd(a.v, b.v)}; }
FASTDL_INLINE VecF min(VecF a, VecF b) { return {_mm512_min_ps(a.v, b.v)}; }
FASTDL_INLINE VecD min(VecD a, VecD b) { return {_mm512_min_pd(a.v, b.v)}; }
FASTDL_INLINE VecF round(VecF a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
FASTDL_INLINE VecD round(VecD a) { return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
FASTDL_INLINE VecF scale_by_power(VecF a, VecF n) { return {_mm512_scalef_ps(a.v, n.v)}; }
FASTDL_INLINE VecD scale_by_power(VecD a, VecD n) { return {_mm512_scalef_pd(a.v, n.v)}; }

FASTDL_INLINE MaskF operator<(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTDL_INLINE MaskD operator<(VecD a, VecD b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
FASTDL_INLINE MaskF operator<=(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
}
FASTDL_INLINE MaskD operator<=(VecD a, VecD b) {
  return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)};
}
FASTDL_INLINE MaskF operator>(VecF a, VecF b) { return b < a; }
FASTDL_INLINE MaskD operator>(VecD a, VecD b) { return b < a; }
FASTDL_INLINE MaskF operator>=(VecF a, VecF b) { return b <= a; }
FASTDL_INLINE MaskD operator>=(VecD a, VecD b) { return b <= a; }
FASTDL_INLINE MaskF operator==(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
}
FASTDL_INLINE MaskD operator==(VecD a, VecD b) {
  return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)};
}
FASTDL_INLINE MaskF operator!=(VecF a, VecF b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)};
}
FASTDL_INLINE MaskD operator!=(VecD a, VecD b) {
  return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ)};
}
FASTDL_INLINE MaskF operator&(MaskF a, MaskF b) { return {_kand_mask16(a.m, b.m)}; }
FASTDL_INLINE MaskD operator&(MaskD a, MaskD b) { return {_kand_mask8(a.m, b.m)}; }
FASTDL_INLINE MaskF operator|(MaskF a, MaskF b) { return {_kor_mask16(a.m, b.m)}; }
FASTDL_INLINE MaskD operator|(MaskD a, MaskD b) { return {_kor_mask8(a.m, b.m)}; }
FASTDL_INLINE MaskF operator~(MaskF a) { return {_knot_mask16(a.m)}; }
FASTDL_INLINE MaskD operator~(MaskD a) { return {_knot_mask8(a.m)}; }
FASTDL_INLINE bool any(MaskF a) { return a.m != 0; }
FASTDL_INLINE bool any(MaskD a) { return a.m != 0; }
FASTDL_INLINE bool all(MaskF a) { return a.m == 0xffff; }
FASTDL_INLINE bool all(MaskD a) { return a.m == 0xff; }
FASTDL_INLINE VecF select(MaskF m, VecF a, VecF b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
FASTDL_INLINE VecD select(MaskD m, VecD a, VecD b) { return {_mm512_mask_blend_pd(m.m, b.v, a.v)}; }

template <int N>
FASTDL_INLINE VecF load_beyond(const float*, VecF here, VecF next) {
  const __m512i a = _mm512_castps_si512(here.v), b = _mm512_castps_si512(next.v);
  return {_mm512_castsi512_ps(_mm512_alignr_epi32(b, a, N))};
}
template <int N>
FASTDL_INLINE VecD load_beyond(const double*, VecD here, VecD next) {
  const __m512i a = _mm512_castpd_si512(here.v), b = _mm512_castpd_si512(next.v);
  return {_mm512_castsi512_pd(_mm512_alignr_epi64(b, a, N))};
}

FASTDL_INLINE VecF even_lanes(VecF a, VecF b) {
  const __m512i from = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
FASTDL_INLINE VecD even_lanes(VecD a, VecD b) {
  const __m512i from = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  return {_mm512_permutex2var_pd(a.v, from, b.v)};
}
FASTDL_INLINE VecF odd_lanes(VecF a, VecF b) {
  const __m512i from = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
FASTDL_INLINE VecD odd_lanes(VecD a, VecD b) {
  const __m512i from = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
  return {_mm512_permutex2var_pd(a.v, from, b.v)};
}
FASTDL_INLINE VecF interleave_low(VecF a, VecF b) {
  const __m512i from = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
FASTDL_INLINE VecD interleave_low(VecD a, VecD b) {
  const __m512i from = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  return {_mm512_permutex2var_pd(a.v, from, b.v)};
}
FASTDL_INLINE VecF interleave_high(VecF a, VecF b) {
  const __m512i from =
      _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {_mm512_permutex2var_ps(a.v, from, b.v)};
}
FASTDL_INLINE VecD interleave_high(VecD a, VecD b) {
  const __m512i from = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
  return {_mm512_permutex2var_pd(a.v, from, b.v)};
}

FASTDL_INLINE float reduce_add(VecF a) { return _mm512_reduce_add_ps(a.v); }
FASTDL_INLINE double reduce_add(VecD a) { return _mm512_reduce_add_pd(a.v); }
FASTDL_INLINE float reduce_max(VecF a) { return _mm512_reduce_max_ps(a.v); }
FASTDL_INLINE double reduce_max(VecD a) { return _mm512_reduce_max_pd(a.v); }

}  // namespace fastdl::FASTDL_ISA
