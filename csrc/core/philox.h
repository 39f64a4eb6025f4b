// Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11), and the
// factors of a dropout made from it; fastdl/reference/philox.py states the bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/random.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

constexpr int kPhiloxBlocks = 32;  // enough independent counters to fill the lanes
constexpr int kPhiloxWords = 4 * kPhiloxBlocks;

// A counter in each lane: words of 64 bits, of which the lower half counts.
using PhiloxLanes __attribute__((vector_size(8 * Vec<double>::lanes))) = uint64_t;

// The 64-bit products of the lower halves.
FASTDL_INLINE PhiloxLanes multiply_halves(PhiloxLanes a, uint32_t b) {
  const PhiloxLanes factor = PhiloxLanes{} + b;
#if defined(__AVX512F__)
  return reinterpret_cast<PhiloxLanes>(
      _mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(factor)));
#elif defined(__AVX2__)  // without it GCC takes three multiplications: 2.9 times as slow
  return reinterpret_cast<PhiloxLanes>(
      _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(factor)));
#else
  return (a & 0xFFFFFFFF) * factor;
#endif
}

// The upper halves as lower ones. By a shuffle, as Intel's cores shift 512 bits in the unit that
// multiplies.
FASTDL_INLINE PhiloxLanes upper_halves(PhiloxLanes a) {
#if defined(__AVX512F__)
  return reinterpret_cast<PhiloxLanes>(
      _mm512_shuffle_epi32(reinterpret_cast<__m512i>(a), _MM_PERM_DDBB));
#else
  return a >> 32;
#endif
}

// low | high << 32 in each lane.
FASTDL_INLINE Vec<double> pack_halves(PhiloxLanes low, PhiloxLanes high) {
  using Bits = decltype(Vec<double>::v);
  return {__builtin_bit_cast(Bits, (low & 0xFFFFFFFF) | high << 32)};
}

// The words of counters first..first + kPhiloxBlocks - 1. A round waits for the one before, so the
// rounds of four vectors of counters alternate.
FASTDL_INLINE void philox(uint32_t* words, uint64_t first, uint64_t seed) {
  constexpr int lanes = Vec<double>::lanes, together = 4;
  static_assert(kPhiloxBlocks % (together * lanes) == 0);
  PhiloxLanes lane = {};
  for (int l = 0; l < lanes; ++l) lane[l] = static_cast<uint64_t>(l);
  for (int i = 0; i < kPhiloxBlocks; i += together * lanes) {
    PhiloxLanes c[together][4];
    for (int v = 0; v < together; ++v) {
      c[v][0] = lane + (first + static_cast<uint64_t>(i + v * lanes));
      c[v][1] = c[v][0] >> 32;
      c[v][2] = c[v][3] = PhiloxLanes{};
    }
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
      for (auto& [c0, c1, c2, c3] : c) {
        const PhiloxLanes p0 = multiply_halves(c0, 0xD2511F53);
        const PhiloxLanes p1 = multiply_halves(c2, 0xCD9E8D57);
        c0 = upper_halves(p1) ^ c1 ^ k0;
        c2 = upper_halves(p0) ^ c3 ^ k1;
        c1 = p1;
        c3 = p0;
      }
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    for (int v = 0; v < together; ++v) {
      const Vec<double> a = pack_halves(c[v][0], c[v][1]), b = pack_halves(c[v][2], c[v][3]);
      const Vec<double> low = interleave_low(a, b), high = interleave_high(a, b);
      uint32_t* to = words + 4 * (i + v * lanes);
      memcpy(to, &low, sizeof low);
      memcpy(to + 2 * lanes, &high, sizeof high);
    }
  }
}

// visit(j, factors, m) with the factors of elements first + j .. first + j + m - 1, for runs that
// cover j = 0..n-1; `factors` has room for a whole vector beyond its end.
template <typename T, typename Visit>
FASTDL_INLINE void for_dropout_factors(const Dropout& dropout, uint64_t first, int64_t n,
                                       Visit&& visit) {
  const uint32_t threshold = dropout.threshold;
  const T scale = static_cast<T>(dropout.scale);
  uint64_t block = dropout.rng.offset + first / 4;
  int64_t skip = static_cast<int64_t>(first % 4);
  for (int64_t j = 0; j < n; block += kPhiloxBlocks) {
    uint32_t words[kPhiloxWords];
    philox(words, block, dropout.rng.seed);
    T factors[kPhiloxWords + Vec<T>::lanes];
    for (int i = 0; i < kPhiloxWords; ++i) factors[i] = words[i] >= threshold ? scale : T(0);
    const int64_t left = n - j, whole = kPhiloxWords - skip, m = left < whole ? left : whole;
    visit(j, factors + skip, m);
    j += m;
    skip = 0;
  }
}

}  // namespace fastdl::FASTDL_ISA
