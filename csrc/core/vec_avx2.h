// vec.h for AVX2 and FMA (x86-64-v3). A mask is a vector of all-one or all-zero lanes.
#pragma once

#include <immintrin.h>

namespace fastdl::FASTDL_ISA {

constexpr int kVecRegisters = 16;

template <>
struct Vec<float> {
  static constexpr int lanes = 8;
  __m256 v;
};
template <>
struct Vec<double> {
  static constexpr int lanes = 4;
  __m256d v;
};
template <>
struct Mask<float> {
  __m256 m;
};
template <>
struct Mask<double> {
  __m256d m;
};

using VecF = Vec<float>;
using VecD = Vec<double>;
using MaskF = Mask<float>;
using MaskD = Mask<double>;

template <typename T>
Mask<T> first_lanes(int n);
template <>
FASTDL_INLINE MaskF first_lanes<float>(int n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane))};
}
template <>
FASTDL_INLINE MaskD first_lanes<double>(int n) {
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return {_mm256_castsi256_pd(_mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane))};
}

FASTDL_INLINE VecF load(const float* p) { return {_mm256_loadu_ps(p)}; }
FASTDL_INLINE VecD load(const double* p) { return {_mm256_loadu_pd(p)}; }
// GCC does not turn a masked access of all lanes into a plain one, so the constant n of a loop's
// body has to pick it here: on Zen the masked store costs several times the plain one.
FASTDL_INLINE VecF load(const float* p, int n) {
  if (n == VecF::lanes) return load(p);
  return {_mm256_maskload_ps(p, _mm256_castps_si256(first_lanes<float>(n).m))};
}
FASTDL_INLINE VecD load(const double* p, int n) {
  if (n == VecD::lanes) return load(p);
  return {_mm256_maskload_pd(p, _mm256_castpd_si256(first_lanes<double>(n).m))};
}
FASTDL_INLINE VecF load(const float* p, MaskF m, VecF outside) {
  return {_mm256_blendv_ps(outside.v, _mm256_maskload_ps(p, _mm256_castps_si256(m.m)), m.m)};
}
FASTDL_INLINE VecD load(const double* p, MaskD m, VecD outside) {
  return {_mm256_blendv_pd(outside.v, _mm256_maskload_pd(p, _mm256_castpd_si256(m.m)), m.m)};
}
FASTDL_INLINE void store(float* p, VecF a) { _mm256_storeu_ps(p, a.v); }
FASTDL_INLINE void store(double* p, VecD a) { _mm256_storeu_pd(p, a.v); }
FASTDL_INLINE void store(float* p, VecF a, int n) {
  if (n == VecF::lanes) return store(p, a);
  _mm256_maskstore_ps(p, _mm256_castps_si256(first_lanes<float>(n).m), a.v);
}
FASTDL_INLINE void store(double* p, VecD a, int n) {
  if (n == VecD::lanes) return store(p, a);
  _mm256_maskstore_pd(p, _mm256_castpd_si256(first_lanes<double>(n).m), a.v);
}
FASTDL_INLINE void stream(float* p, VecF a) { _mm256_stream_ps(p, a.v); }
FASTDL_INLINE void stream(double* p, VecD a) { _mm256_stream_pd(p, a.v); }
FASTDL_INLINE VecF broadcast(float x) { return {_mm256_set1_ps(x)}; }
FASTDL_INLINE VecD broadcast(double x) { return {_mm256_set1_pd(x)}; }
FASTDL_INLINE void keep(VecF& a) { asm("" : "+x"(a.v)); }
FASTDL_INLINE void keep(VecD& a) { asm("" : "+x"(a.v)); }

FASTDL_INLINE __m128i load_halves(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
FASTDL_INLINE VecF load(const bfloat16* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p)), 16))};
}
FASTDL_INLINE VecF load(const float16* p) { return {_mm256_cvtph_ps(load_halves(p))}; }
FASTDL_INLINE void store(bfloat16* p, VecF a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);  // ties to even
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i rounded = _mm256_blendv_epi8(
      _mm256_add_epi32(bits, half), _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
  const __m256i words = _mm256_srli_epi32(rounded, 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
FASTDL_INLINE void store(float16* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

FASTDL_INLINE VecF operator+(VecF a, VecF b) { return {_mm256_add_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator+(VecD a, VecD b) { return {_mm256_add_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a, VecF b) { return {_mm256_sub_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator-(VecD a, VecD b) { return {_mm256_sub_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator*(VecF a, VecF b) { return {_mm256_mul_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator*(VecD a, VecD b) { return {_mm256_mul_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator/(VecF a, VecF b) { return {_mm256_div_ps(a.v, b.v)}; }
FASTDL_INLINE VecD operator/(VecD a, VecD b) { return {_mm256_div_pd(a.v, b.v)}; }
FASTDL_INLINE VecF operator-(VecF a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
FASTDL_INLINE VecD operator-(VecD a) { return {_mm256_xor_pd(a.v, _mm256_set1_pd(-0.0))}; }
FASTDL_INLINE VecF sqrt(VecF a) { return {_mm256_sqrt_ps(a.v)}; }
FASTDL_INLINE VecD sqrt(VecD a) { return {_mm256_sqrt_pd(a.v)}; }
FASTDL_INLINE VecF abs(VecF a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
FASTDL_INLINE VecD abs(VecD a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
FASTDL_INLINE VecF fma(VecF a, VecF b, VecF c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FASTDL_INLINE VecD fma(VecD a, VecD b, VecD c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FASTDL_INLINE VecF fnma(VecF a, VecF b, VecF c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FASTDL_INLINE VecD fnma(VecD a, VecD b, VecD c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
FASTDL_INLINE VecF max(VecF a, VecF b) { return {_mm256_max_ps(a.v, b.v)}; }
FASTDL_INLINE VecD max(VecD a, VecD b) { return {_mm256_max_pd(a.v, b.v)}; }
FASTDL_INLINE VecF min(VecF a, VecF b) { return {_mm256_min_ps(a.v, b.v)}; }
FASTDL_INLINE VecD min(VecD a, VecD b) { return {_mm256_min_pd(a.v, b.v)}; }
FASTDL_INLINE VecF round(VecF a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FASTDL_INLINE VecD round(VecD a) {
  return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

// 2^n from its exponent bits takes n within the normal range, so it is multiplied on in two halves:
// the first product is exact, and the second rounds once, into the denormals too.
FASTDL_INLINE VecF scale_by_power(VecF a, VecF n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  const auto power = [](__m256i e) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
  };
  const __m256 once = _mm256_mul_ps(a.v, power(half));
  return {_mm256_mul_ps(once, power(_mm256_sub_epi32(whole, half)))};
}
FASTDL_INLINE VecD scale_by_power(VecD a, VecD n) {
  const __m128i whole = _mm256_cvtpd_epi32(n.v), half = _mm_srai_epi32(whole, 1);
  const auto power = [](__m128i e) {
    const __m256i biased = _mm256_cvtepi32_epi64(_mm_add_epi32(e, _mm_set1_epi32(1023)));
    return _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52));
  };
  const __m256d once = _mm256_mul_pd(a.v, power(half));
  return {_mm256_mul_pd(once, power(_mm_sub_epi32(whole, half)))};
}

FASTDL_INLINE MaskF operator<(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FASTDL_INLINE MaskD operator<(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
FASTDL_INLINE MaskF operator<=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
FASTDL_INLINE MaskD operator<=(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
FASTDL_INLINE MaskF operator>(VecF a, VecF b) { return b < a; }
FASTDL_INLINE MaskD operator>(VecD a, VecD b) { return b < a; }
FASTDL_INLINE MaskF operator>=(VecF a, VecF b) { return b <= a; }
FASTDL_INLINE MaskD operator>=(VecD a, VecD b) { return b <= a; }
FASTDL_INLINE MaskF operator==(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
FASTDL_INLINE MaskD operator==(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
FASTDL_INLINE MaskF operator!=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTDL_INLINE MaskD operator!=(VecD a, VecD b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)}; }
FASTDL_INLINE MaskF operator&(MaskF a, MaskF b) { return {_mm256_and_ps(a.m, b.m)}; }
FASTDL_INLINE MaskD operator&(MaskD a, MaskD b) { return {_mm256_and_pd(a.m, b.m)}; }
FASTDL_INLINE MaskF operator|(MaskF a, MaskF b) { return {_mm256_or_ps(a.m, b.m)}; }
FASTDL_INLINE MaskD operator|(MaskD a, MaskD b) { return {_mm256_or_pd(a.m, b.m)}; }
FASTDL_INLINE MaskF operator~(MaskF a) {
  return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
}
FASTDL_INLINE MaskD operator~(MaskD a) {
  return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))};
}
FASTDL_INLINE bool any(MaskF a) { return _mm256_movemask_ps(a.m) != 0; }
FASTDL_INLINE bool any(MaskD a) { return _mm256_movemask_pd(a.m) != 0; }
FASTDL_INLINE bool all(MaskF a) { return _mm256_movemask_ps(a.m) == 0xff; }
FASTDL_INLINE bool all(MaskD a) { return _mm256_movemask_pd(a.m) == 0xf; }
FASTDL_INLINE VecF select(MaskF m, VecF a, VecF b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
FASTDL_INLINE VecD select(MaskD m, VecD a, VecD b) { return {_mm256_blendv_pd(b.v, a.v, m.m)}; }

// Within the 128-bit halves first, then the four 64-bit quarters in order 0 2 1 3.
FASTDL_INLINE VecF even_lanes(VecF a, VecF b) {
  const __m256d quarters = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(quarters, 0xd8))};
}
FASTDL_INLINE VecD even_lanes(VecD a, VecD b) {
  return {_mm256_permute4x64_pd(_mm256_unpacklo_pd(a.v, b.v), 0xd8)};
}
FASTDL_INLINE VecF odd_lanes(VecF a, VecF b) {
  const __m256d quarters = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0xdd));
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(quarters, 0xd8))};
}
FASTDL_INLINE VecD odd_lanes(VecD a, VecD b) {
  return {_mm256_permute4x64_pd(_mm256_unpackhi_pd(a.v, b.v), 0xd8)};
}
FASTDL_INLINE VecF interleave_low(VecF a, VecF b) {
  const __m256 low = _mm256_unpacklo_ps(a.v, b.v), high = _mm256_unpackhi_ps(a.v, b.v);
  return {_mm256_permute2f128_ps(low, high, 0x20)};
}
FASTDL_INLINE VecD interleave_low(VecD a, VecD b) {
  const __m256d low = _mm256_unpacklo_pd(a.v, b.v), high = _mm256_unpackhi_pd(a.v, b.v);
  return {_mm256_permute2f128_pd(low, high, 0x20)};
}
FASTDL_INLINE VecF interleave_high(VecF a, VecF b) {
  const __m256 low = _mm256_unpacklo_ps(a.v, b.v), high = _mm256_unpackhi_ps(a.v, b.v);
  return {_mm256_permute2f128_ps(low, high, 0x31)};
}
FASTDL_INLINE VecD interleave_high(VecD a, VecD b) {
  const __m256d low = _mm256_unpacklo_pd(a.v, b.v), high = _mm256_unpackhi_pd(a.v, b.v);
  return {_mm256_permute2f128_pd(low, high, 0x31)};
}

FASTDL_INLINE float reduce_add(VecF a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
FASTDL_INLINE double reduce_add(VecD a) {
  const __m128d s = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
FASTDL_INLINE float reduce_max(VecF a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
FASTDL_INLINE double reduce_max(VecD a) {
  const __m128d s = _mm_max_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_max_sd(s, _mm_unpackhi_pd(s, s)));
}

}  // namespace fastdl::FASTDL_ISA

#include "core/vec_half_tail.h"
