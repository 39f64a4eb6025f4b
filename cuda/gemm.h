// Matrix products C = A B whose factors are given by functions: matrices with any strides, and
// convolutions, whose A or B is gathered from images as it is needed (implicit GEMM).
//
// A factor F has neighbours along its line (a row of A, a column of B) and along k:
//   F::Line line(int64_t problem, int64_t i)     what all elements of line i have in common
//   F::Term term(int64_t k)                      and all elements at k
//   T get(Line, Term)                            the element, 0 in a padding
//   bool along_k                                 whether elements that differ in k are neighbours
// The result R has put(problem, i, j, value), i a row and j a column.
//
// A block computes a tile of C from tiles of A and B in shared memory. Where there are fewer tiles
// than multiprocessors, k is cut into parts as well; the parts' sums are added in order.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

struct GemmSizes {
  int64_t m, n, k;
  int64_t problems = 1;           // independent products
  int64_t parts = 1, part_k = k;  // of k
};

constexpr int kGemmThreads = 256;

// What a block works on.
struct GemmTile {
  int64_t problem, part, row, col, k_begin, k_end;

  __device__ GemmTile(const GemmSizes& s, int size) {
    const int64_t tiles_m = ceil_div<int64_t>(s.m, size), tiles_n = ceil_div<int64_t>(s.n, size);
    int64_t index = blockIdx.x;
    row = index % tiles_m * size;
    index /= tiles_m;
    col = index % tiles_n * size;
    index /= tiles_n;
    part = index % s.parts;
    problem = index / s.parts;
    k_begin = part * s.part_k;
    k_end = k_begin + s.part_k < s.k ? k_begin + s.part_k : s.k;
  }
};

// A thread's share of a tile of kSize lines and kDepth terms of a factor: its way from memory, by
// registers, to shared memory. Neighbouring threads read neighbours in memory.
template <int kSize, int kDepth, typename F>
class TileReader {
 public:
  static constexpr int kShare = kSize * kDepth / kGemmThreads;

  __device__ TileReader(const F& factor, int64_t problem, int64_t first, int64_t lines)
      : factor_(factor) {
    const int t = static_cast<int>(threadIdx.x);
    line_ = factor.along_k ? t / kDepth : t % kSize;
    term_ = factor.along_k ? t % kDepth : t / kSize;
    line_step_ = factor.along_k ? kGemmThreads / kDepth : 0;
    term_step_ = factor.along_k ? 0 : kGemmThreads / kSize;
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int64_t i = first + line_ + j * line_step_;
      inside_[j] = i < lines;
      if (inside_[j]) lines_[j] = factor.line(problem, i);
    }
  }

  __device__ void read(int64_t k, int64_t k_end) {
    auto term = factor_.term(k + term_ < k_end ? k + term_ : k);
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int64_t at = k + term_ + j * term_step_;
      if (term_step_ > 0 && j > 0 && at < k_end) term = factor_.term(at);
      values_[j] = inside_[j] && at < k_end ? widen(factor_.get(lines_[j], term)) : 0;
    }
  }

  // Element (i, k) comes to tile[k][i].
  template <typename C, int kPitch>
  __device__ void write(C (&tile)[kDepth][kPitch]) const {
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      tile[term_ + j * term_step_][line_ + j * line_step_] = values_[j];
    }
  }

 private:
  const F& factor_;
  int line_, term_, line_step_, term_step_;
  bool inside_[kShare];
  typename F::Line lines_[kShare];
  Compute<typename F::Element> values_[kShare];
};

// By multiply-adds: float32, float64. A thread has kShare x kShare elements of C, of rows and
// columns 16 apart, so that a warp reads 16 neighbours of shared memory at once. Sums of 128
// products are added up, so that the error does not grow with k.
template <int kSize, typename A, typename B, typename R>
__global__ void __launch_bounds__(kGemmThreads) fma_gemm_kernel(A a, B b, R result, GemmSizes s) {
  using C = Compute<typename A::Element>;
  constexpr int kDepth = 16, kSumTerms = 128, kSide = 16, kShare = kSize / kSide;
  __shared__ C a_tile[kDepth][kSize + 1];
  __shared__ C b_tile[kDepth][kSize + 1];
  const GemmTile tile(s, kSize);
  TileReader<kSize, kDepth, A> a_reader(a, tile.problem, tile.row, s.m);
  TileReader<kSize, kDepth, B> b_reader(b, tile.problem, tile.col, s.n);
  const int row = static_cast<int>(threadIdx.x) / kSide;
  const int col = static_cast<int>(threadIdx.x) % kSide;
  C totals[kShare][kShare] = {}, sums[kShare][kShare] = {};
  if (tile.k_begin < tile.k_end) {
    a_reader.read(tile.k_begin, tile.k_end);
    b_reader.read(tile.k_begin, tile.k_end);
  }
  for (int64_t k = tile.k_begin; k < tile.k_end; k += kDepth) {
    a_reader.write(a_tile);
    b_reader.write(b_tile);
    __syncthreads();
    if (k + kDepth < tile.k_end) {  // comes while the tiles are multiplied
      a_reader.read(k + kDepth, tile.k_end);
      b_reader.read(k + kDepth, tile.k_end);
    }
#pragma unroll
    for (int l = 0; l < kDepth; ++l) {
      C left[kShare], right[kShare];
#pragma unroll
      for (int i = 0; i < kShare; ++i) left[i] = a_tile[l][row + i * kSide];
#pragma unroll
      for (int j = 0; j < kShare; ++j) right[j] = b_tile[l][col + j * kSide];
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) sums[i][j] = fma(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
    if ((k - tile.k_begin) % kSumTerms == kSumTerms - kDepth || k + kDepth >= tile.k_end) {
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) {
          totals[i][j] += sums[i][j];
          sums[i][j] = 0;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int64_t at_row = tile.row + row + i * kSide, at_col = tile.col + col + j * kSide;
      if (at_row < s.m && at_col < s.n) {
        result.put(tile.problem * s.parts + tile.part, at_row, at_col, totals[i][j]);
      }
    }
  }
}

// The sums of parts of k, (problem, part, m, n).
template <typename C>
struct PartialSums {
  C* sums;
  int64_t m, n;

  __device__ void put(int64_t problem_and_part, int64_t row, int64_t col, C value) const {
    sums[(problem_and_part * m + row) * n + col] = value;
  }
};

template <typename C, typename R>
__global__ void __launch_bounds__(kGemmThreads)
    add_parts_kernel(R result, const C* sums, GemmSizes s) {
  const int64_t matrix = s.m * s.n, total = s.problems * matrix;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += stride) {
    const int64_t problem = i / matrix, element = i % matrix;
    const C* part = sums + problem * s.parts * matrix + element;
    C sum = 0;
    for (int64_t p = 0; p < s.parts; ++p) sum += part[p * matrix];
    result.put(problem, element / s.n, element % s.n, sum);
  }
}

template <int kSize, typename A, typename B, typename R>
void launch_tiles(const Device& device, const A& a, const B& b, const R& result,
                  const GemmSizes& s) {
  const int64_t tiles = ceil_div<int64_t>(s.m, kSize) * ceil_div<int64_t>(s.n, kSize);
  const auto blocks = static_cast<unsigned>(tiles * s.problems * s.parts);
  launch(device, {blocks, kGemmThreads}, fma_gemm_kernel<kSize, A, B, R>, a, b, result, s);
}

template <int kSize, typename A, typename B, typename R>
void gemm_in_parts(const Device& device, const A& a, const B& b, const R& result, GemmSizes s) {
  using C = Compute<typename A::Element>;
  constexpr int64_t kMinPart = 512;  // terms: with fewer, adding parts costs more than it hides
  const int64_t blocks = ceil_div<int64_t>(s.m, kSize) * ceil_div<int64_t>(s.n, kSize) * s.problems;
  const int64_t wanted = 2 * limits(device).multiprocessors / std::max<int64_t>(blocks, 1);
  s.parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(s.k / kMinPart, 1));
  s.part_k = std::max<int64_t>(ceil_div<int64_t>(ceil_div<int64_t>(s.k, s.parts), 32) * 32, 32);
  s.parts = std::max<int64_t>(ceil_div<int64_t>(s.k, s.part_k), 1);
  if (s.parts == 1) return launch_tiles<kSize>(device, a, b, result, s);
  const Workspace<C> sums(s.problems * s.parts * s.m * s.n);
  launch_tiles<kSize>(device, a, b, PartialSums<C>{sums.data(), s.m, s.n}, s);
  const int64_t adders = ceil_div<int64_t>(s.problems * s.m * s.n, kGemmThreads);
  launch(device, {static_cast<unsigned>(std::min(adders, kMaxBlocks)), kGemmThreads},
         add_parts_kernel<C, R>, result, static_cast<const C*>(sums.data()), s);
}

template <typename A, typename B, typename R>
void gemm(const Device& device, const A& a, const B& b, const R& result, const GemmSizes& s) {
  if (s.m == 0 || s.n == 0 || s.problems == 0) return;
  constexpr int64_t kLarge = 128;
  const int64_t large_tiles = ceil_div(s.m, kLarge) * ceil_div(s.n, kLarge) * s.problems;
  if (std::min(s.m, s.n) >= kLarge && large_tiles >= limits(device).multiprocessors) {
    gemm_in_parts<kLarge>(device, a, b, result, s);
  } else {
    gemm_in_parts<kLarge / 2>(device, a, b, result, s);
  }
}

}  // namespace fastdl::cuda
