// Matrix products C = A B whose factors are given by functions: matrices with any strides, and
// convolutions, whose A or B is gathered from images as it is needed (implicit GEMM).
//
// A factor F has neighbours along its line (a row of A, a column of B) and along k:
//   F::Line line(int64_t problem, int64_t i)     what all elements of line i have in common
//   F::Term term(int64_t k)                      and all elements at k
//   T get(Line, Term)                            the element, 0 in a padding
//   bool along_k                                 whether elements that differ in k are neighbours
//   kPacksTerms, kPacksLines                     along what the neighbours of 16 bytes, aligned,
//   may
//                                                be so in memory too, or all in a padding
//   bool packs(lines, k)                         and whether they are
//   const T* pack(Line, Term)                    null in a padding
// The result R has, i being a row and j a column,
//   put(problem, i, j, value)
//   bool packs                                   whether packs of a row are so in memory
//   put_pack(problem, i, j, values)              one or two packs
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
    const auto tiles_m = static_cast<unsigned>(ceil_div<int64_t>(s.m, size));
    const auto tiles_n = static_cast<unsigned>(ceil_div<int64_t>(s.n, size));
    const auto parts = static_cast<unsigned>(s.parts);
    unsigned index = blockIdx.x;
    row = int64_t{index % tiles_m} * size;
    index /= tiles_m;
    col = int64_t{index % tiles_n} * size;
    index /= tiles_n;
    part = index % parts;
    problem = index / parts;
    k_begin = part * s.part_k;
    k_end = k_begin + s.part_k < s.k ? k_begin + s.part_k : s.k;
  }
};

// A thread's share of a tile of kSize lines and kDepth terms of a factor: its way from memory, by
// registers, to shared memory. Neighbouring threads read neighbours in memory.
template <int kSize, int kDepth, typename F>
class TileReader {
 public:
  using Element = typename F::Element;
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
      values_[j] = inside_[j] && at < k_end ? factor_.get(lines_[j], term) : Element{};
    }
  }

  // put(i, k, element) for all of the share.
  template <typename Put>
  __device__ void write(Put&& put) const {
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      put(line_ + j * line_step_, term_ + j * term_step_, values_[j]);
    }
  }

 private:
  const F& factor_;
  int line_, term_, line_step_, term_step_;
  bool inside_[kShare];
  typename F::Line lines_[kShare];
  Element values_[kShare];
};

// The N neighbours from (row, col) on, those of them that there are.
template <int N, typename R, typename C>
__device__ void put_neighbours(const R& result, const GemmTile& tile, const GemmSizes& s,
                               int64_t row, int64_t col, const C (&values)[N]) {
  if (row >= s.m) return;
  const int64_t matrix = tile.problem * s.parts + tile.part;
  if (result.packs && col + N <= s.n) return result.put_pack(matrix, row, col, values);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    if (col + j < s.n) result.put(matrix, row, col + j, values[j]);
  }
}

// By multiply-adds: float32, float64. A thread has squares of 4 x 4 elements of C, 64 rows and
// columns apart, so that 4 neighbours are read from shared memory and stored at once. Sums of 128
// products are added up, so that the error does not grow with k.
template <int kSize, typename A, typename B, typename R>
__global__ void __launch_bounds__(kGemmThreads, 1)
    fma_gemm_kernel(A a, B b, const __grid_constant__ R result, GemmSizes s) {
  using C = Compute<typename A::Element>;
  constexpr int kSquare = 4, kSide = 16, kSquares = kSize / (kSide * kSquare), kSumTerms = 128;
  constexpr int kShare = kSquares * kSquare;
  constexpr int kDepth = kSquares > 1 ? 8 : 16;  // what fits the registers
  using Four = Pack<C, kSquare>;
  // Lines of whole packs, 4 banks apart.
  alignas(sizeof(Four)) __shared__ C a_tile[kDepth][kSize + kSquare];
  alignas(sizeof(Four)) __shared__ C b_tile[kDepth][kSize + kSquare];
  const GemmTile tile(s, kSize);
  TileReader<kSize, kDepth, A> a_reader(a, tile.problem, tile.row, s.m);
  TileReader<kSize, kDepth, B> b_reader(b, tile.problem, tile.col, s.n);
  const int row = static_cast<int>(threadIdx.x) / kSide * kSquare;
  const int col = static_cast<int>(threadIdx.x) % kSide * kSquare;
  C totals[kShare][kShare] = {}, sums[kShare][kShare] = {};
  if (tile.k_begin < tile.k_end) {
    a_reader.read(tile.k_begin, tile.k_end);
    b_reader.read(tile.k_begin, tile.k_end);
  }
  for (int64_t k = tile.k_begin; k < tile.k_end; k += kDepth) {
    a_reader.write([&](int i, int l, auto value) { a_tile[l][i] = widen(value); });
    b_reader.write([&](int j, int l, auto value) { b_tile[l][j] = widen(value); });
    __syncthreads();
    if (k + kDepth < tile.k_end) {  // comes while the tiles are multiplied
      a_reader.read(k + kDepth, tile.k_end);
      b_reader.read(k + kDepth, tile.k_end);
    }
#pragma unroll
    for (int l = 0; l < kDepth; ++l) {
      Four left[kSquares], right[kSquares];
#pragma unroll
      for (int i = 0; i < kSquares; ++i) {
        left[i] = *reinterpret_cast<const Four*>(&a_tile[l][row + i * kSide * kSquare]);
        right[i] = *reinterpret_cast<const Four*>(&b_tile[l][col + i * kSide * kSquare]);
      }
#pragma unroll
      for (int i = 0; i < kShare; ++i) {
#pragma unroll
        for (int j = 0; j < kShare; ++j) {
          const C x = left[i / kSquare].values[i % kSquare];
          sums[i][j] = fma(x, right[j / kSquare].values[j % kSquare], sums[i][j]);
        }
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
    for (int j = 0; j < kSquares; ++j) {
      C four[kSquare];
#pragma unroll
      for (int e = 0; e < kSquare; ++e) four[e] = totals[i][j * kSquare + e];
      put_neighbours(result, tile, s, tile.row + row + i / kSquare * 64 + i % kSquare,
                     tile.col + col + j * 64, four);
    }
  }
}

// The sums of parts of k, (problem, part, m, n).
template <typename C>
struct PartialSums {
  C* sums;
  int64_t m, n;
  bool packs = n % 8 == 0;

  __device__ void put(int64_t problem_and_part, int64_t row, int64_t col, C value) const {
    sums[(problem_and_part * m + row) * n + col] = value;
  }
  template <int N>
  __device__ void put_pack(int64_t problem_and_part, int64_t row, int64_t col,
                           const C (&values)[N]) const {
    store_packs(sums + (problem_and_part * m + row) * n + col, values);
  }
};

template <typename C, typename R>
__global__ void __launch_bounds__(kGemmThreads)
    add_parts_kernel(const __grid_constant__ R result, const C* sums, GemmSizes s) {
  // Where there are parts, the tiles are so few that 32 bits count all elements.
  const auto cols = static_cast<unsigned>(s.n), matrix = static_cast<unsigned>(s.m) * cols;
  const unsigned total = static_cast<unsigned>(s.problems) * matrix;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const unsigned problem = i / matrix, element = i % matrix;
    const C* part = sums + problem * s.parts * matrix + element;
    C sum = 0;
    for (int64_t p = 0; p < s.parts; ++p) sum += part[p * matrix];
    result.put(problem, element / cols, element % cols, sum);
  }
}

// run(grid, result, sizes) launches a kernel for tiles of that size; k is in parts where the device
// would be idle otherwise.
template <typename C, int kSize, typename Run, typename R>
void gemm_in_parts(const Device& device, Run run, const R& result, GemmSizes s) {
  constexpr int64_t kMinPart = 512;  // terms: with fewer, adding parts costs more than it hides
  const int64_t tiles = ceil_div<int64_t>(s.m, kSize) * ceil_div<int64_t>(s.n, kSize) * s.problems;
  const int64_t wanted = 2 * limits(device).multiprocessors / tiles;
  s.parts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(s.k / kMinPart, 1));
  s.part_k = std::max<int64_t>(ceil_div<int64_t>(ceil_div<int64_t>(s.k, s.parts), 32) * 32, 32);
  s.parts = std::max<int64_t>(ceil_div<int64_t>(s.k, s.part_k), 1);
  const Grid grid{static_cast<unsigned>(tiles * s.parts), kGemmThreads};
  if (s.parts == 1) return run(grid, result, s);
  const Workspace<C> sums(s.problems * s.parts * s.m * s.n);
  run(grid, PartialSums<C>{sums.data(), s.m, s.n}, s);
  const int64_t adders = ceil_div<int64_t>(s.problems * s.m * s.n, kGemmThreads);
  launch(device, {static_cast<unsigned>(std::min(adders, kMaxBlocks)), kGemmThreads},
         add_parts_kernel<C, R>, result, static_cast<const C*>(sums.data()), s);
}

template <int kSize, typename A, typename B, typename R>
void fma_gemm(const Device& device, const A& a, const B& b, const R& result, const GemmSizes& s) {
  const auto run = [&](const Grid& grid, const auto& to, const GemmSizes& sizes) {
    using To = std::decay_t<decltype(to)>;
    launch(device, grid, fma_gemm_kernel<kSize, A, B, To>, a, b, to, sizes);
  };
  gemm_in_parts<Compute<typename A::Element>, kSize>(device, run, result, s);
}

constexpr int64_t kLargeTile = 128;

// Whether tiles of 128 x 128 fill the device.
inline bool fills(const Device& device, const GemmSizes& s) {
  const int64_t tiles = ceil_div(s.m, kLargeTile) * ceil_div(s.n, kLargeTile) * s.problems;
  return std::min(s.m, s.n) >= kLargeTile && tiles >= limits(device).multiprocessors;
}

}  // namespace fastdl::cuda
