// Division of indices by what is known only at run time, without the many instructions it takes.
#pragma once

#include "cuda/launch.h"

namespace fastdl::cuda {

// n / divisor for n < 2^31, or n < 2^63, by a product (Granlund and Montgomery, 1994, "Division by
// invariant integers using multiplication").
struct Divider {
  unsigned divisor = 1, shift = 0;
  unsigned multiplier = 1;
  uint64_t long_multiplier = 1;

  Divider() = default;
  explicit Divider(int64_t by) : divisor(static_cast<unsigned>(by)) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - divisor;
    multiplier = static_cast<unsigned>((rest << 32) / divisor + 1);
    // (rest << 64) / divisor, 32 bits at a time
    const uint64_t high = (rest << 32) / divisor, left = (rest << 32) % divisor;
    long_multiplier = (high << 32) + (left << 32) / divisor + 1;
  }
  __device__ unsigned divide(unsigned n) const { return (__umulhi(n, multiplier) + n) >> shift; }
  __device__ int64_t divide(int64_t n) const {
    const auto m = static_cast<uint64_t>(n);
    return static_cast<int64_t>((__umul64hi(m, long_multiplier) + m) >> shift);
  }
  // n becomes the quotient; returns the remainder.
  __device__ unsigned split(unsigned& n) const {
    const unsigned quotient = divide(n), remainder = n - quotient * divisor;
    n = quotient;
    return remainder;
  }
  __device__ int64_t split(int64_t& n) const {
    const int64_t quotient = divide(n), remainder = n - quotient * divisor;
    n = quotient;
    return remainder;
  }
};

}  // namespace fastdl::cuda
