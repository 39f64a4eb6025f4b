// Pooling with small windows: K x K with stride S and padding P, the same along both axes. Arrays
// are read where they lie, with the lanes along the width: masks keep the vectors inside a row. The
// windows walk down a band of a plane, vector by vector of a row, and each row under them is
// read and reduced once, in registers, for all the windows it lies in.
#pragma once

#include "core/buffer_pool.h"
#include "core/vec.h"
#include "kernels/pool_windows.h"
#include "kernels/window_gradient.h"

namespace fastdl::FASTDL_ISA {

// body<K, S, P>() for windows that has_few_taps() accepts.
template <typename Body>
FASTDL_INLINE void with_window(const PoolAxis& axis, Body&& body) {
  const auto padded = [&]<int K, int S>() {
    axis.padding ? body.template operator()<K, S, 1>() : body.template operator()<K, S, 0>();
  };
  if (axis.kernel == 2) return padded.template operator()<2, 2>();
  axis.stride == 1 ? padded.template operator()<3, 1>() : padded.template operator()<3, 2>();
}

// The elements under a vector of windows, from window `column` on.
template <int K, int S, int P, typename T>
class Strip {
 public:
  const int64_t column;

  FASTDL_INLINE Strip(int64_t column, int64_t width) : column(column), start_(S * column - P) {
    for (int i = 0; i < kLoads; ++i) inside_[i] = lanes_inside<T>(start_ + at(i), width);
  }

  // taps[j] = tap j of the windows in `row`, `outside` where that is padding.
  FASTDL_INLINE void read(Vec<T> (&taps)[K], const T* row, T outside) const {
    Vec<T> v[kLoads];
#pragma GCC unroll 4
    for (int i = 0; i < kLoads; ++i) {
      v[i] = load(row + start_ + at(i), inside_[i], broadcast(outside));
    }
#pragma GCC unroll 4
    for (int j = 0; j < K; ++j) {
      if constexpr (S == 1) {
        taps[j] = v[j];
      } else {
        const int pair = j / 2 * 2;
        taps[j] = j % 2 ? odd_lanes(v[pair], v[pair + 1]) : even_lanes(v[pair], v[pair + 1]);
      }
    }
  }

  // What the windows read of a row begins to come to L1.
  FASTDL_INLINE void prefetch(const T* row) const {
    for (int i = 0; i < S * Vec<T>::lanes; i += 64 / sizeof(T)) {
      __builtin_prefetch(row + start_ + i);
    }
  }

 private:
  // With stride 2 pairs of vectors: one for taps 0 and 1, and one for tap 2.
  static constexpr int kLoads = S == 1 ? K : 2 * (K - 1);
  static constexpr int at(int i) { return S == 1 ? i : i / 2 * 2 + i % 2 * Vec<T>::lanes; }

  int64_t start_;
  Mask<T> inside_[kLoads];
};

// emit(row, strip, lanes, rows under the windows) for the windows of the rows begin..end-1. Row r
// of the plane is there as read(strip, r) made it, one that does not exist as `outside`.
template <int K, int S, int P, typename T, typename Row, typename Read, typename Emit>
FASTDL_INLINE void walk_down(const PoolWindows& windows, int64_t begin, int64_t end, Row outside,
                             Read read, Emit emit) {
  constexpr int kKept = K > S ? K - S : 0;
  const int64_t height = windows.rows.size, width = windows.columns.size;
  for_each_vec<T>(windows.columns.output, [=](int64_t column, int lanes) FASTDL_INLINE_LAMBDA {
    const Strip<K, S, P, T> strip(column, width);
    const auto row_under = [&](int64_t r) FASTDL_INLINE_LAMBDA {
      return r >= 0 && r < height ? read(strip, r) : outside;
    };
    Row under[K];
#pragma GCC unroll 4
    for (int i = 0; i < kKept; ++i) under[i] = row_under(S * begin - P + i);
    for (int64_t row = begin; row < end; ++row) {
#pragma GCC unroll 4
      for (int i = kKept; i < K; ++i) under[i] = row_under(S * row - P + i);
      emit(row, strip, lanes, under);
#pragma GCC unroll 4
      for (int i = 0; i < kKept; ++i) under[i] = under[i + S];
    }
  });
}

// Bands of rows of windows: some 16 KB, a third of L1.
FASTDL_INLINE PoolBands small_bands(int64_t planes, const PoolWindows& w) {
  return {planes, w.plane() + w.output(), w.rows.output, 4096};
}

// body(scratch, plane, begin, end) for every band, with `size` elements of scratch memory.
template <typename T, typename Body>
FASTDL_INLINE void for_each_pool_band(const PoolBands& bands, int64_t size, Body&& body) {
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(size);
    for (int64_t i = begin; i < end; ++i) {
      body(scratch.data(), bands.plane(i), bands.begin(i), bands.end(i));
    }
  });
}

// The gradient walks down as well: under an S x S block of elements of x, one window of these, lie
// the windows that reach it.
template <int K, int S, int P>
struct PoolGradient : WindowGradient<K, S, P> {
  using WindowGradient<K, S, P>::kFirst, WindowGradient<K, S, P>::kSpan;

  static FASTDL_INLINE PoolWindows windows(const PoolWindows& w) {
    const auto axis = [](const PoolAxis& a) {
      return PoolAxis{a.output, kSpan, 1, -kFirst, 1, ceil_div(a.size, S)};
    };
    return {axis(w.rows), axis(w.columns)};
  }
  static FASTDL_INLINE PoolBands bands(int64_t planes, const PoolWindows& w) {
    return {planes, w.plane() + w.output(), ceil_div(w.rows.size, S), 4096};
  }
};

}  // namespace fastdl::FASTDL_ISA
