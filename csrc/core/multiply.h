// Products of matrices that fit in the caches, on operands as they lie: nothing is packed.
//
//   multiply(c, a, b, rows, cols, k)            C = A B
//   multiply_add(c, factor, a, b, ...)          C[i, :] = factor[i] * C[i, :] + (A B)[i, :]
//
// Elements of A are broadcast and may lie at any strides; the lanes run along the rows of B and C.
// Sums stay in registers for 32 products and are then added to C: the error of attention in float32
// is 1.8 eps (root mean square) instead of 3.0.
#pragma once

#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// 6 x 4 vectors of sums for 32 registers, 6 x 2 for the 16 of AVX2; one lane likes 4 x 4. 8 x 2,
// with 10 loads for 16 products instead of 10 for 24, make attention 7 % slower on Intel's cores.
template <typename T>
struct MultiplyTile {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int rows = lanes == 1 ? 4 : 6;
  static constexpr int vectors = lanes == 1 || kVecRegisters == 32 ? 4 : 2;
};

constexpr int64_t kMultiplyDepth = 32;

// Element (i, p) is data[i * row_stride + p * col_stride].
template <typename T>
struct Strided {
  const T* data;
  int64_t row_stride, col_stride;
};

// Rows of lanes; the row after starts `stride` elements on.
template <typename T>
struct Lines {
  T* data;
  int64_t stride;
};

// One tile of Rows x Vectors; the last vector has `last` lanes, all of them unless Tail.
template <int Rows, int Vectors, bool Tail, typename T>
FASTDL_INLINE void multiply_tile(Lines<T> c, const T* factor, Strided<T> a, Lines<const T> b,
                                 int64_t k, int last) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t begin = 0;
  do {  // once if k is 0
    const int64_t end = begin + kMultiplyDepth < k ? begin + kMultiplyDepth : k;
    Vec<T> sum[Rows][Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] = zero<T>();
    }
#pragma GCC unroll 4
    for (int64_t p = begin; p < end; ++p) {
      const T* line = b.data + p * b.stride;
      Vec<T> row[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        row[j] = Tail && j == Vectors - 1 ? load(line + j * lanes, last) : load(line + j * lanes);
      }
      const T* column = a.data + p * a.col_stride;
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i) {
        const Vec<T> element = broadcast(column[i * a.row_stride]);
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) sum[i][j] = fma(element, row[j], sum[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        T* to = c.data + i * c.stride + j * lanes;
        if (begin > 0) {
          store(to, load(to) + sum[i][j]);
        } else {
          store(to, factor ? fma(load(to), broadcast(factor[i]), sum[i][j]) : sum[i][j]);
        }
      }
    }
    begin += kMultiplyDepth;
  } while (begin < k);
}

template <int Rows, typename T>
FASTDL_INLINE void multiply_rows(Lines<T> c, const T* factor, Strided<T> a, Lines<const T> b,
                                 int64_t cols, int64_t k) {
  constexpr int lanes = Vec<T>::lanes, vectors = MultiplyTile<T>::vectors;
  int64_t j = 0;
  const auto whole = [&]<int Vectors>() {
    for (; j + Vectors * lanes <= cols; j += Vectors * lanes) {
      multiply_tile<Rows, Vectors, false>(Lines<T>{c.data + j, c.stride}, factor, a,
                                          Lines<const T>{b.data + j, b.stride}, k, lanes);
    }
  };
  whole.template operator()<vectors>();
  if constexpr (vectors > 2) whole.template operator()<2>();
  for (; j < cols; j += lanes) {
    const Lines<T> to = {c.data + j, c.stride};
    const Lines<const T> from = {b.data + j, b.stride};
    if (j + lanes <= cols) {
      multiply_tile<Rows, 1, false>(to, factor, a, from, k, lanes);
    } else {
      multiply_tile<Rows, 1, true>(to, factor, a, from, k, static_cast<int>(cols - j));
    }
  }
}

// What follows writes whole vectors: C needs room for `cols` rounded up to them.
template <typename T, bool Add>
__attribute__((noinline)) void multiply_any(Lines<T> c, const T* factor, Strided<T> a,
                                            Lines<const T> b, int64_t rows, int64_t cols,
                                            int64_t k) {
  const auto tile = [&]<int Rows>(int64_t i) {
    multiply_rows<Rows>(Lines<T>{c.data + i * c.stride, c.stride}, Add ? factor + i : nullptr,
                        Strided<T>{a.data + i * a.row_stride, a.row_stride, a.col_stride}, b, cols,
                        k);
  };
  constexpr int most = MultiplyTile<T>::rows;
  int64_t i = 0;
  // The last 8 rows are 4 and 4, not 6, 1 and 1.
  const int64_t end = most == 6 && rows % 6 == 2 ? rows - 8 : rows;
  for (; i + most <= end; i += most) tile.template operator()<most>(i);
  if constexpr (most > 4) {
    for (; i + 4 <= rows; i += 4) tile.template operator()<4>(i);
  }
  for (; i < rows; ++i) tile.template operator()<1>(i);
}

template <typename T>
FASTDL_INLINE void multiply(Lines<T> c, Strided<T> a, Lines<const T> b, int64_t rows, int64_t cols,
                            int64_t k) {
  multiply_any<T, false>(c, nullptr, a, b, rows, cols, k);
}

template <typename T>
FASTDL_INLINE void multiply_add(Lines<T> c, const T* factor, Strided<T> a, Lines<const T> b,
                                int64_t rows, int64_t cols, int64_t k) {
  multiply_any<T, true>(c, factor, a, b, rows, cols, k);
}

}  // namespace fastdl::FASTDL_ISA
