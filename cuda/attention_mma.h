// Tiles of 16-bit rows in shared memory and their products on the matrix units, by blocks of four
// warps: each warp makes 16 rows of a result, or M times as many.
//
// A row of a tile has kWidth elements, 64 or 128, zeros beyond those of the matrix. Its chunks of
// 16 bytes lie permuted, chunk c of row r at c ^ r % 8, so that the 8 rows that ldmatrix reads at
// once are in different banks.
#pragma once

#include "cuda/attention.h"
#include "cuda/mma.h"

namespace fastdl::cuda {

constexpr int kMmaWarps = 4, kMmaThreads = kMmaWarps * kWarp;
constexpr int kMmaTile = 64;  // rows of a tile that streams past
constexpr int kChunk = 8;     // elements of 16 bytes

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

template <int kWidth, typename T>
__device__ T* chunk_at(T* tile, int row, int chunk) {
  return tile + row * kWidth + (chunk ^ row % 8) * kChunk;
}

// The byte address of a chunk of a lane's row; others of the row, and rows 8 or 16 further, are
// constants away from it: see at_chunks.
template <int kWidth, typename T>
__device__ SharedAddress lane_address(const T* tile, int row, int chunk) {
  return shared_address(tile) + static_cast<unsigned>(row * kWidth * 2 + (chunk ^ row % 8) * 16);
}
// 2 pairs chunks further.
__device__ __forceinline__ SharedAddress at_chunks(SharedAddress address, int pairs) {
  return (address ^ static_cast<unsigned>(pairs % 4 * 32)) + static_cast<unsigned>(pairs / 4 * 128);
}

// Starts to copy rows row..row + kRows - 1 of a (rows, cols) matrix; cols is a multiple of 8.
template <int kRows, int kWidth, typename T>
__device__ void copy_rows(T* tile, const T* matrix, int64_t row, int64_t rows, int64_t cols) {
  constexpr int kChunks = kWidth / kChunk, kStep = kMmaThreads / kChunks;
  const int thread = thread_index_anew();
  const int chunk = thread % kChunks, first = thread / kChunks;
  const SharedAddress to = lane_address<kWidth>(tile, first, chunk);
  const bool inside = chunk * kChunk < cols;
  const int end = inside ? static_cast<int>(rows - row < kRows ? rows - row : kRows) : 0;
  const T* from = matrix + (row + first) * cols + chunk * kChunk;
  const int step = kStep * static_cast<int>(cols);
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    copy_async(to + i * kStep * kWidth * 2, from + i * step, first + i * kStep < end ? 16 : 0);
  }
}

// Writes a warp's rows row + 16 m .. + 15 of a result, times factor[m][0] for rows g and [1] for
// rows g + 8, by way of the same rows of a tile that no other warp reads.
template <int kWidth, int M, typename T>
__device__ void store_rows(T* matrix, T* tile, const float (&sum)[M][kWidth / 8][4],
                           const float (&factor)[M][2], int tile_row, int64_t row, int64_t rows,
                           int64_t cols) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float f = factor[m][half];
        *reinterpret_cast<unsigned*>(chunk_at<kWidth>(tile, tile_row + 16 * m + 8 * half + g, n) +
                                     2 * t) =
            pack_pair<T>(sum[m][n][2 * half] * f, sum[m][n][2 * half + 1] * f);
      }
    }
  }
  __syncwarp();
  constexpr int kChunks = kWidth / kChunk;
  const int chunk = lane_id() % kChunks;
#pragma unroll
  for (int r = lane_id() / kChunks; r < 16 * M; r += kWarp / kChunks) {
    if (chunk * kChunk < cols && row + tile_row + r < rows) {
      *reinterpret_cast<Pack<T, kChunk>*>(matrix + (row + tile_row + r) * cols + chunk * kChunk) =
          *reinterpret_cast<const Pack<T, kChunk>*>(chunk_at<kWidth>(tile, tile_row + r, chunk));
    }
  }
}

// sum[m][n] += a[row + 16 m .. + 15, :] b[8 n .. + 7, :]^T
template <int kWidth, int M, int N, typename T>
__device__ __forceinline__ void multiply_rows(float (&sum)[M][N][4], const T* a_tile, int row,
                                              const T* b_tile) {
  constexpr int k16Rows = 16 * kWidth * 2;  // bytes
  const int lane = lane_id();
  const SharedAddress a_rows = lane_address<kWidth>(a_tile, row + lane % 16, lane / 16);
  const SharedAddress b_rows = lane_address<kWidth>(b_tile, lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int k = 0; k < kWidth / 16; ++k) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrix_x4(a[m], at_chunks(a_rows, k) + m * k16Rows);
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      unsigned b[4];
      load_matrix_x4(b, at_chunks(b_rows, k) + n * k16Rows);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_16x8x16<T>(sum[m][2 * n], a[m], b[0], b[1]);
        mma_16x8x16<T>(sum[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// sum[m][n] += a[m] b[:, 8 n .. + 7], a rounded to 16 bits.
template <int kWidth, int M, int N, typename T>
__device__ __forceinline__ void multiply_columns(float (&sum)[M][kWidth / 8][4],
                                                 const float (&a)[M][N][4], const T* b_tile) {
  constexpr int k16Rows = 16 * kWidth * 2;  // bytes
  const int lane = lane_id();
  const SharedAddress b_rows = lane_address<kWidth>(b_tile, lane % 16, lane / 16);
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    unsigned pairs[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&c)[4] = a[m][2 * k + i / 2];
        pairs[m][i] = pack_pair<T>(c[i % 2 * 2], c[i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      unsigned b[4];
      load_matrix_x4_transposed(b, at_chunks(b_rows, n) + k * k16Rows);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_16x8x16<T>(sum[m][2 * n], pairs[m], b[0], b[1]);
        mma_16x8x16<T>(sum[m][2 * n + 1], pairs[m], b[2], b[3]);
      }
    }
  }
}

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// visit(n, c, row, col) for the elements that the lane has of 16 rows of 8 N columns.
template <int N = kMmaTile / 8, typename Visit>
__device__ __forceinline__ void for_each_score(Visit&& visit) {
  const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) visit(n, c, g + c / 2 * 8, 8 * n + 2 * t + c % 2);
  }
}

}  // namespace fastdl::cuda
