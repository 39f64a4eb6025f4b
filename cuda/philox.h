// Philox4x32-10, word for word that of core/philox.h; fastdl/reference/philox.py states the bits.
#pragma once

#include "core/random.h"
#include "cuda/launch.h"

namespace fastdl::cuda {

struct PhiloxWords {
  unsigned words[4];
};

__device__ inline PhiloxWords philox(uint64_t counter, uint64_t seed) {
  unsigned c0 = static_cast<unsigned>(counter), c1 = static_cast<unsigned>(counter >> 32);
  unsigned c2 = 0, c3 = 0;
  unsigned k0 = static_cast<unsigned>(seed), k1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

__device__ inline uint64_t seed_of(const RngState& state) {
  return state.device_seed ? static_cast<uint64_t>(*state.device_seed) : state.seed;
}

}  // namespace fastdl::cuda
