// Mean and variance in pieces that are put together in an order that is always the same (Chan,
// Golub, LeVeque 1979). A chunk of a few numbers in registers is summed to get its mean, then again
// as differences from that mean; chunks are put together in double.
#pragma once

#include "cuda/inputs.h"

namespace fastdl::cuda {

// Of `count` numbers: their mean, and the sum of their squared distances from it.
struct Moments {
  double count, mean, squares;
};

__device__ inline Moments merge(const Moments& a, const Moments& b) {
  if (b.count == 0) return a;
  if (a.count == 0) return b;
  const double count = a.count + b.count, share = b.count / count, d = b.mean - a.mean;
  const double mean = isfinite(d) ? a.mean + d * share : a.mean * (1 - share) + b.mean * share;
  return {count, mean, a.squares + b.squares + d * d * (a.count * share)};
}

// Of value(0), .., value(count - 1), count from 1 to N.
template <int N, typename C, typename Value>
__device__ Moments moments_of(int count, Value&& value) {
  const C n = static_cast<C>(count);
  C sum = 0, d_sum = 0, squares = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < count) sum += value(k);
  }
  const C rough = sum / n;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k >= count) continue;
    const C d = value(k) - rough;
    d_sum += d;
    squares += d * d;
  }
  const C rest = d_sum / n, about_mean = squares - d_sum * rest;
  if (isfinite(about_mean)) {
    return {static_cast<double>(count), static_cast<double>(rough) + static_cast<double>(rest),
            about_mean < 0 ? 0 : static_cast<double>(about_mean)};
  }
  // In double: for sums that overflow, and for inf and NaN.
  double wide_sum = 0, wide_squares = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < count) wide_sum += static_cast<double>(value(k));
  }
  const double mean = wide_sum / count;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k >= count) continue;
    const double d = static_cast<double>(value(k)) - mean;
    wide_squares += d * d;
  }
  return {static_cast<double>(count), mean, wide_squares};
}

}  // namespace fastdl::cuda
