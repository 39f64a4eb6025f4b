// Mean and variance in one pass over memory, safe when the mean is large: batch_norm, layer_norm.
//
// A chunk that lies in the L1 cache is summed to get its mean, then again as differences from that
// mean. Chunks are combined in double, in order (Chan, Golub, LeVeque 1979).
#pragma once

#include <math.h>

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// Elements of a chunk: 64 vectors in each of four accumulators, so that no sum in T is long.
template <typename T>
constexpr int64_t kChunk = 256 * Vec<T>::lanes;

FASTDL_INLINE bool is_finite(double v) { return v - v == 0; }
FASTDL_INLINE double inverse_deviation(double var, double eps) { return 1 / ::sqrt(var + eps); }

// Two sums side by side over pieces of memory.
template <typename T>
struct PairSums {
  Vec<T> a[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
  Vec<T> b[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};

  // term(i, lanes, a, b) adds the terms of elements i, i + 1, ... of 0..n-1 to a and b. In the
  // tail, lanes beyond n may get anything.
  template <typename Term>
  FASTDL_INLINE void add(int64_t n, Term&& term) {
    constexpr int lanes = Vec<T>::lanes;
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes) {
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) term(i + k * lanes, lanes, a[k], b[k]);
    }
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      if (i + lanes > n) break;
      term(i, lanes, a[k], b[k]);
      i += lanes;
    }
    if (i == n) return;
    Vec<T> tail_a = zero<T>(), tail_b = zero<T>();
    const int rest = static_cast<int>(n - i);
    term(i, rest, tail_a, tail_b);
    a[3] += select(first_lanes<T>(rest), tail_a, zero<T>());
    b[3] += select(first_lanes<T>(rest), tail_b, zero<T>());
  }

  FASTDL_INLINE double sum_a() const { return reduce_add((a[0] + a[1]) + (a[2] + a[3])); }
  FASTDL_INLINE double sum_b() const { return reduce_add((b[0] + b[1]) + (b[2] + b[3])); }
};

// Sums of both terms over 0..n-1, chunk by chunk in double.
struct Pair {
  double a = 0, b = 0;
};
template <typename T, typename Term>
FASTDL_INLINE Pair pair_sums(int64_t n, Term&& term) {
  Pair total;
  for (int64_t begin = 0; begin < n; begin += kChunk<T>) {
    PairSums<T> sums;
    sums.add(n - begin < kChunk<T> ? n - begin : kChunk<T>,
             [&](int64_t i, int lanes, Vec<T>& a, Vec<T>& b) { term(begin + i, lanes, a, b); });
    total.a += sums.sum_a();
    total.b += sums.sum_b();
  }
  return total;
}

// The mean of some values, and the sum of their squared distances from it.
struct Moments {
  double mean, squares;
};

// From sums of d = x - shift and of d^2.
FASTDL_INLINE Moments shifted_moments(double shift, double d, double d2, int64_t count) {
  const double n = static_cast<double>(count), squares = d2 - d * d / n;
  return {shift + d / n, squares < 0 ? 0 : squares};
}

// Of `count` elements in pieces, in double: for sums that overflow T, and for inf and NaN.
// pieces(f) calls f(pointer, n) for each piece.
template <typename Pieces>
FASTDL_INLINE Moments wide_moments(int64_t count, Pieces&& pieces) {
  double sum = 0, squares = 0;
  pieces([&](const auto* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  });
  const double mean = sum / static_cast<double>(count);
  pieces([&](const auto* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const double d = static_cast<double>(x[i]) - mean;
      squares += d * d;
    }
  });
  return {mean, squares};
}

// Of a chunk of `count` elements in pieces.
template <typename T, typename Pieces>
FASTDL_INLINE Moments chunk_moments(int64_t count, Pieces&& pieces) {
  PairSums<T> rough;
  pieces([&](const T* x, int64_t n) {
    rough.add(n, [&](int64_t i, int lanes, Vec<T>& a, Vec<T>&) { a += load(x + i, lanes); });
  });
  const T shift = static_cast<T>(rough.sum_a() / static_cast<double>(count));
  PairSums<T> sums;
  pieces([&](const T* x, int64_t n) {
    sums.add(n, [&](int64_t i, int lanes, Vec<T>& a, Vec<T>& b) {
      const Vec<T> d = load(x + i, lanes) - broadcast(shift);
      a += d;
      b = fma(d, d, b);
    });
  });
  const Moments moments = shifted_moments(shift, sums.sum_a(), sums.sum_b(), count);
  if (is_finite(moments.mean) && is_finite(moments.squares)) return moments;
  return wide_moments(count, pieces);
}

// The moments of chunks put together.
class MomentSum {
 public:
  FASTDL_INLINE void add(Moments chunk, int64_t count) {
    if (count_ == 0) center_ = chunk.mean;
    const double n = static_cast<double>(count), d = chunk.mean - center_;
    count_ += n;
    total_ += n * chunk.mean;
    distance_ += n * d;
    squares_ += chunk.squares + n * d * d;
  }
  // Zeros when there was nothing to add.
  FASTDL_INLINE double mean() const {
    if (count_ == 0) return 0;
    return is_finite(distance_) ? center_ + distance_ / count_ : total_ / count_;
  }
  FASTDL_INLINE double squares() const {
    if (count_ == 0) return 0;
    const double squares = squares_ - distance_ * distance_ / count_;
    return squares < 0 ? 0 : squares;
  }
  FASTDL_INLINE double count() const { return count_; }

 private:
  double count_ = 0, center_ = 0, total_ = 0, distance_ = 0, squares_ = 0;
};

// x - mean without the rounding of the mean to T: (x - high) - low.
template <typename T>
struct Center {
  T high, low;
};
template <typename T>
FASTDL_INLINE Center<T> split_center(double mean) {
  const T high = static_cast<T>(mean);
  const double low = mean - static_cast<double>(high);
  return {high, is_finite(low) ? static_cast<T>(low) : T(0)};
}

}  // namespace fastdl::FASTDL_ISA
