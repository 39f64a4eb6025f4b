// Products of tiles of 64 x 64 numbers in shared memory, by a block of 16 x 16 threads with 4 x 4
// results each. Operands are read four neighbours at once: 8 loads for 64 multiplications. At most
// 64 products are added up before they join the sum: long sums stay exact enough.
#pragma once

#include "cuda/attention.h"

namespace fastdl::cuda {

constexpr int kTile = 64, kTileThreads = 256;
constexpr int kLine = kTile + 4;  // so that 8 threads read 4 floats of 8 lines from all 32 banks

// A thread's row and column among 16 x 16.
__device__ inline int tile_row() { return static_cast<int>(threadIdx.x) / 16; }
__device__ inline int tile_col() { return static_cast<int>(threadIdx.x) % 16; }

template <typename C>
__device__ Pack<C, 4> four(const C* p) {
  return *reinterpret_cast<const Pack<C, 4>*>(p);
}

// tile[r, c] = factor * matrix[row + r, col + c], 0 outside of the (rows, cols) matrix.
template <typename T, typename C>
__device__ void load_tile(C* tile, const T* matrix, int64_t row, int64_t rows, int64_t col,
                          int64_t cols, C factor = 1) {
  const int c = static_cast<int>(threadIdx.x) % kTile;
  constexpr int kStep = kTileThreads / kTile;
#pragma unroll 8
  for (int r = static_cast<int>(threadIdx.x) / kTile; r < kTile; r += kStep) {
    const bool inside = row + r < rows && col + c < cols;
    tile[r * kLine + c] = inside ? widen(matrix[(row + r) * cols + col + c]) * factor : C(0);
  }
}

template <typename C>
__device__ void add(C (&sum)[4][4], const C (&part)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[i][j] += part[i][j];
  }
}

// sum[i][j] += sum over k of a[row + 16 i, k] b[col + 16 j, k]
template <typename C>
__device__ void add_rows_by_rows(C (&sum)[4][4], const C* a, const C* b, int64_t count) {
  C part[4][4] = {};
  for (int k = 0; k < count; k += 4) {
    Pack<C, 4> x[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = four(a + (tile_row() + 16 * i) * kLine + k);
      y[i] = four(b + (tile_col() + 16 * i) * kLine + k);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int n = 0; n < 4; ++n) part[i][j] = fma(x[i].values[n], y[j].values[n], part[i][j]);
      }
    }
  }
  add(sum, part);
}

// sum[i][j] += sum over k of a[row + 16 i, k] b[k, 4 col + j]
template <typename C>
__device__ void add_rows_by_columns(C (&sum)[4][4], const C* a, const C* b, int64_t count) {
  C part[4][4] = {};
  for (int k = 0; k < count; k += 4) {
    Pack<C, 4> x[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = four(a + (tile_row() + 16 * i) * kLine + k);
      y[i] = four(b + (k + i) * kLine + 4 * tile_col());
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) part[i][j] = fma(x[i].values[n], y[n].values[j], part[i][j]);
      }
    }
  }
  add(sum, part);
}

// sum[i][j] += sum over k of a[k, 4 row + i] b[k, 4 col + j]
template <typename C>
__device__ void add_columns_by_columns(C (&sum)[4][4], const C* a, const C* b, int64_t count) {
  C part[4][4] = {};
#pragma unroll 4
  for (int k = 0; k < count; ++k) {
    const Pack<C, 4> x = four(a + k * kLine + 4 * tile_row());
    const Pack<C, 4> y = four(b + k * kLine + 4 * tile_col());
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) part[i][j] = fma(x.values[i], y.values[j], part[i][j]);
    }
  }
  add(sum, part);
}

__device__ inline int64_t tile_count(int64_t begin, int64_t end) {
  return end - begin < kTile ? end - begin : kTile;
}

// s[i][j] += a[row + 16 i, :] b[col + 16 j, :], of the (rows, n) matrix a from row a0 and the
// (columns, n) matrix b from row b0, by way of the tiles.
template <typename T, typename C>
__device__ void multiply_rows(C (&s)[4][4], C* a_tile, C* b_tile, const T* a, int64_t a0,
                              int64_t rows, C factor, const T* b, int64_t b0, int64_t columns,
                              int64_t n) {
  for (int64_t k = 0; k < n; k += kTile) {
    __syncthreads();  // what was there is read
    load_tile(a_tile, a, a0, rows, k, n, factor);
    load_tile(b_tile, b, b0, columns, k, n);
    __syncthreads();
    add_rows_by_rows(s, a_tile, b_tile, tile_count(k, n));
  }
}

}  // namespace fastdl::cuda
