// Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11), and the
// factors of a dropout made from it; fastdl/reference/philox.py states the bits.
#pragma once

#include <cstdint>

#include "core/random.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

constexpr int kPhiloxBlocks = 32;  // enough independent counters to fill the lanes
constexpr int kPhiloxWords = 4 * kPhiloxBlocks;

// The words of counters first..first + kPhiloxBlocks - 1. GCC puts one counter in each lane; in
// words of 64 bits, of which the lower half counts, its products need no shuffles (AVX-512: 1.9
// times as fast; the others: as fast).
FASTDL_INLINE void philox(uint32_t* words, uint64_t first, uint64_t seed) {
  constexpr uint64_t low = 0xFFFFFFFF;
  for (int i = 0; i < kPhiloxBlocks; ++i) {
    const uint64_t block = first + static_cast<uint64_t>(i);
    uint64_t c0 = block, c1 = block >> 32, c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = 0xD2511F53 * (c0 & low), p1 = 0xCD9E8D57 * (c2 & low);
      c0 = (p1 >> 32) ^ c1 ^ k0;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c1 = p1;
      c3 = p0;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    words[4 * i] = static_cast<uint32_t>(c0);
    words[4 * i + 1] = static_cast<uint32_t>(c1);
    words[4 * i + 2] = static_cast<uint32_t>(c2);
    words[4 * i + 3] = static_cast<uint32_t>(c3);
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
