// The gradient of what slides K x K windows over a plane with stride S = 1 or 2 (depthwise
// convolution and pooling), as a gather: each element sums over the windows it lies in, so that the
// plane is written once, by vectors.
//
// Element h of an axis lies under tap i of window o where h + P = S o + i, with a padding of P.
// With h = S a + e that is o = a + (e + P - i) / S: which taps reach the elements of one remainder
// e, and from which windows, is known to the compiler.
#pragma once

#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {

template <int K, int S, int P>
struct WindowGradient {
  static_assert((S == 1 || S == 2) && P < K);
  static constexpr int kFirst = -((K - 1 - P) / S), kLast = (S - 1 + P) / S;
  static constexpr int kSpan = kLast - kFirst + 1;

  // sum[e][f] of S x S elements: term(tap, row, column, sum so far) for the windows at (row,
  // column) of the kSpan x kSpan that reach them.
  template <typename T, typename Term>
  static FASTDL_INLINE void add_up(Vec<T> (&sum)[S][S], Term&& term) {
#pragma GCC unroll 2
    for (int e = 0; e < S; ++e) {
#pragma GCC unroll 2
      for (int f = 0; f < S; ++f) {
        sum[e][f] = zero<T>();
#pragma GCC unroll 8
        for (int i = (e + P) % S; i < K; i += S) {
#pragma GCC unroll 8
          for (int j = (f + P) % S; j < K; j += S) {
            const int row = (e + P - i) / S - kFirst, column = (f + P - j) / S - kFirst;
            sum[e][f] = term(i * K + j, row, column, sum[e][f]);
          }
        }
      }
    }
  }

  // Writes S x S elements for each of n windows' lanes from element (row, column) of the plane dx
  // of size `plane` on, as far as they lie in it.
  template <typename T>
  static FASTDL_INLINE void write(T* dx, HeightWidth plane, int64_t row, int64_t column, int64_t n,
                                  Vec<T> (&sum)[S][S]) {
    const int64_t room = smaller(plane.w - column, S * n);
#pragma GCC unroll 2
    for (int e = 0; e < S; ++e) {
      if (row + e < plane.h) put(dx + (row + e) * plane.w + column, sum[e], room);
    }
  }

 private:
  // The vectors, one element of each in turn, as far as `room` goes.
  template <typename T>
  static FASTDL_INLINE void put(T* to, Vec<T> (&v)[S], int64_t room) {
    constexpr int kLanes = Vec<T>::lanes;
    interleave(v);
    if (room >= S * kLanes) {
      for (int i = 0; i < S; ++i) store(to + i * kLanes, v[i]);
    } else {
      for (int i = 0; i < S && room > i * kLanes; ++i) {
        store(to + i * kLanes, v[i], static_cast<int>(smaller(room - i * kLanes, kLanes)));
      }
    }
  }
};

}  // namespace fastdl::FASTDL_ISA
