// gemm on the matrix units (mma.sync, sums in float32): of 16-bit factors, and of float32 ones that
// may be rounded to TF32, 11 significant bits.
//
// Where both factors have their elements in packs of 16 bytes, tiles of 128 x 128 come to shared
// memory by asynchronous copies, three deep, and lie there as they do in memory: ldmatrix
// transposes those whose packs run along the lines. Other factors come element by element to tiles
// of 64 x 64.
#pragma once

#include "cuda/gemm.h"
#include "cuda/mma.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {

// Of one instruction: 32 bytes.
template <typename T>
constexpr int kMmaTerms = 32 / sizeof(T);

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                    unsigned b1) {
  if constexpr (std::is_same_v<T, float>) {
    mma_16x8x8_tf32(c, a, b0, b1);
  } else {
    mma_16x8x16<T>(c, a, b0, b1);
  }
}

__device__ inline void round_tf32(unsigned (&fragment)[4]) {
#pragma unroll
  for (unsigned& bits : fragment) bits = round_tf32(__uint_as_float(bits));
}

// What lane t of four has at j goes to lane j, at t.
template <typename V>
__device__ void transpose_quads(V (&values)[4]) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool upper = threadIdx.x & step;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j & step) continue;
      V& low = values[j];
      V& high = values[j + step];
      const V other = shuffle_xor(upper ? low : high, step);
      (upper ? low : high) = other;
    }
  }
}

// A warp's part of C, kRows x 4 fragments of 16 x 8, and the place of it in a tile of kSize.
template <typename T, int kSize, int kRows>
struct WarpTile {
  static constexpr int kCols = 4;
  static constexpr int kWarpsDown = kSize / (16 * kRows);
  float sums[kRows][kCols][4] = {};
  int row, col;

  __device__ WarpTile() {
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    row = warp % kWarpsDown * 16 * kRows;
    col = warp / kWarpsDown * 8 * kCols;
  }

  // The terms of one instruction: load_a(row) and load_b(col) get the fragments.
  template <typename LoadA, typename LoadB>
  __device__ void multiply(LoadA&& load_a, LoadB&& load_b) {
    unsigned a[kRows][4], b[kCols / 2][4];
#pragma unroll
    for (int i = 0; i < kRows; ++i) load_a(a[i], row + 16 * i);
#pragma unroll
    for (int j = 0; j < kCols / 2; ++j) load_b(b[j], col + 16 * j);
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (auto& fragment : a) round_tf32(fragment);
#pragma unroll
      for (auto& fragment : b) round_tf32(fragment);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        mma<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  // The four lanes of a row trade places and fragments, so that each has 8 neighbours.
  template <typename R>
  __device__ void store(const R& result, const GemmTile& tile, const GemmSizes& s) const {
    static_assert(kCols == 4);
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Pack<float, 2> pairs[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          pairs[j] = {sums[i][j][2 * half], sums[i][j][2 * half + 1]};
        }
        transpose_quads(pairs);
        float values[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) values[e] = pairs[e / 2].values[e % 2];
        put_neighbours(result, tile, s, tile.row + row + 16 * i + 8 * half + lane / 4,
                       tile.col + col + lane % 4 * 8, values);
      }
    }
  }
};

// Tiles in shared memory: kLines lines of kDepth terms, or, transposed, the other way round. The
// padding keeps rows of a fragment in different banks.
template <typename T, int kLines, int kDepth, bool kTransposed>
struct SharedTile {
  static constexpr int kPack = kPackSize<T>;
  static constexpr int kPitch = kTransposed ? kLines + 8 : kDepth + kPack;
  static constexpr int kElements = (kTransposed ? kDepth : kLines) * kPitch;
  T* elements;

  __device__ T* at(int line, int k) const {
    return elements + (kTransposed ? k * kPitch + line : line * kPitch + k);
  }
  // The fragment of A of 16 lines.
  __device__ void load_a(unsigned (&r)[4], int line, int k) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if constexpr (!kTransposed) {
      load_matrix_x4(r, at(line + lane % 16, k + lane / 16 * kPack));
    } else if constexpr (sizeof(T) == 2) {
      load_matrix_x4_transposed(r, at(line + lane / 8 % 2 * 8, k + lane / 16 * 8 + lane % 8));
    } else {
      load_words<8, 4 * kPitch>(r, at(line + lane / 4, k + lane % 4));
    }
  }
  // Two fragments of B, of 8 lines each: registers 0 and 1, 2 and 3.
  __device__ void load_b(unsigned (&r)[4], int line, int k) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if constexpr (!kTransposed) {
      load_matrix_x4(r, at(line + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * kPack));
    } else if constexpr (sizeof(T) == 2) {
      load_matrix_x4_transposed(r, at(line + lane / 16 * 8, k + lane / 8 % 2 * 8 + lane % 8));
    } else {
      load_words<4 * kPitch, 8>(r, at(line + lane / 4, k + lane % 4));
    }
  }

 private:
  // What ldmatrix cannot transpose: four words of a lane, the second and third so far from the
  // first.
  template <int kSecond, int kThird>
  __device__ static void load_words(unsigned (&r)[4], const float* first) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = __float_as_uint(first[i % 2 * kSecond + i / 2 * kThird]);
  }
};

template <typename A, typename B, typename R>
__global__ void __launch_bounds__(kGemmThreads, 1)
    mma_gather_kernel(A a, B b, const __grid_constant__ R result, GemmSizes s) {
  using T = typename A::Element;
  constexpr int kSize = 64, kDepth = 32;
  using Tile = SharedTile<T, kSize, kDepth, false>;
  alignas(16) __shared__ T a_elements[Tile::kElements];
  alignas(16) __shared__ T b_elements[Tile::kElements];
  const Tile a_tile{a_elements}, b_tile{b_elements};
  const GemmTile tile(s, kSize);
  TileReader<kSize, kDepth, A> a_reader(a, tile.problem, tile.row, s.m);
  TileReader<kSize, kDepth, B> b_reader(b, tile.problem, tile.col, s.n);
  WarpTile<T, kSize, 1> warp;
  if (tile.k_begin < tile.k_end) {
    a_reader.read(tile.k_begin, tile.k_end);
    b_reader.read(tile.k_begin, tile.k_end);
  }
  for (int64_t k = tile.k_begin; k < tile.k_end; k += kDepth) {
    a_reader.write([&](int i, int l, T value) { *a_tile.at(i, l) = value; });
    b_reader.write([&](int j, int l, T value) { *b_tile.at(j, l) = value; });
    __syncthreads();
    if (k + kDepth < tile.k_end) {  // comes while the tiles are multiplied
      a_reader.read(k + kDepth, tile.k_end);
      b_reader.read(k + kDepth, tile.k_end);
    }
#pragma unroll
    for (int l = 0; l < kDepth; l += kMmaTerms<T>) {
      warp.multiply([&](unsigned (&r)[4], int row) { a_tile.load_a(r, row, l); },
                    [&](unsigned (&r)[4], int col) { b_tile.load_b(r, col, l); });
    }
    __syncthreads();
  }
  warp.store(result, tile, s);
}

// A thread's packs of a tile, and their copies to shared memory.
template <int kLines, int kDepth, bool kTransposed, typename F>
class PackCopier {
 public:
  using T = typename F::Element;
  using Tile = SharedTile<T, kLines, kDepth, kTransposed>;
  static constexpr int kPack = kPackSize<T>, kShare = kLines * kDepth / kPack / kGemmThreads;

  __device__ PackCopier(const F& factor, int64_t problem, int64_t first, int64_t lines)
      : factor_(factor) {
#pragma unroll
    for (int j = 0; j < (kTransposed ? 1 : kShare); ++j) {
      const int64_t i = first + line(j);
      inside_[j] = i < lines;
      if (inside_[j]) lines_[j] = factor.line(problem, i);
    }
  }

  __device__ void copy(const Tile& tile, int64_t k, int64_t k_end) const {
#pragma unroll
    for (int j = 0; j < kShare; ++j) {
      const int64_t at = k + term(j);
      const int l = kTransposed ? 0 : j;
      const T* from =
          inside_[l] && at < k_end ? factor_.pack(lines_[l], factor_.term(at)) : nullptr;
      copy_async(tile.at(line(j), term(j)), from ? from : factor_.any(), from ? 16 : 0);
    }
  }

 private:
  static constexpr int kPacksAcross = (kTransposed ? kLines : kDepth) / kPack;
  static constexpr int kStep = kGemmThreads / kPacksAcross;

  __device__ static int across() { return static_cast<int>(threadIdx.x) % kPacksAcross * kPack; }
  __device__ static int down(int j) {
    return static_cast<int>(threadIdx.x) / kPacksAcross + j * kStep;
  }
  __device__ static int line(int j) { return kTransposed ? across() : down(j); }
  __device__ static int term(int j) { return kTransposed ? down(j) : across(); }

  const F& factor_;
  bool inside_[kShare];
  typename F::Line lines_[kShare];
};

constexpr int kPackStages = 3;
template <typename T>
constexpr int kPackDepth = 64 / sizeof(T);

template <typename T, bool kAlongLines>
using PackTile = SharedTile<T, static_cast<int>(kLargeTile), kPackDepth<T>, kAlongLines>;

template <bool kALines, bool kBLines, typename A, typename B, typename R>
__global__ void __launch_bounds__(kGemmThreads)
    mma_pack_kernel(A a, B b, const __grid_constant__ R result, GemmSizes s) {
  using T = typename A::Element;
  constexpr int kSize = static_cast<int>(kLargeTile), kDepth = kPackDepth<T>;
  using TileA = PackTile<T, kALines>;
  using TileB = PackTile<T, kBLines>;
  T* const shared = dynamic_shared<T>();
  const auto a_tile = [&](int64_t step) {
    return TileA{shared + step % kPackStages * (TileA::kElements + TileB::kElements)};
  };
  const auto b_tile = [&](int64_t step) { return TileB{a_tile(step).elements + TileA::kElements}; };
  const GemmTile tile(s, kSize);
  const PackCopier<kSize, kDepth, kALines, A> a_copier(a, tile.problem, tile.row, s.m);
  const PackCopier<kSize, kDepth, kBLines, B> b_copier(b, tile.problem, tile.col, s.n);
  const int64_t steps = ceil_div<int64_t>(tile.k_end - tile.k_begin, kDepth);
  const auto copy = [&](int64_t step) {
    if (step < steps) {
      a_copier.copy(a_tile(step), tile.k_begin + step * kDepth, tile.k_end);
      b_copier.copy(b_tile(step), tile.k_begin + step * kDepth, tile.k_end);
    }
    copy_commit();  // also an empty group, so that the count of those under way is right
  };
  WarpTile<T, kSize, 4> warp;
  for (int step = 0; step < kPackStages - 1; ++step) copy(step);
  for (int64_t step = 0; step < steps; ++step) {
    copy_wait<kPackStages - 2>();
    __syncthreads();  // all copies are seen, and the tiles of the step before are done with
    copy(step + kPackStages - 1);
    const TileA left = a_tile(step);
    const TileB right = b_tile(step);
#pragma unroll
    for (int l = 0; l < kDepth; l += kMmaTerms<T>) {
      warp.multiply([&](unsigned (&r)[4], int row) { left.load_a(r, row, l); },
                    [&](unsigned (&r)[4], int col) { right.load_b(r, col, l); });
    }
  }
  copy_wait<0>();
  warp.store(result, tile, s);
}

template <bool kALines, bool kBLines, typename A, typename B, typename R>
void mma_pack_gemm(const Device& device, const A& a, const B& b, const R& result,
                   const GemmSizes& s) {
  using T = typename A::Element;
  constexpr size_t kBytes =
      kPackStages * sizeof(T) * (PackTile<T, kALines>::kElements + PackTile<T, kBLines>::kElements);
  const auto run = [&](Grid grid, const auto& to, const GemmSizes& sizes) {
    using To = std::decay_t<decltype(to)>;
    grid.shared_bytes = kBytes;
    launch(device, grid, mma_pack_kernel<kALines, kBLines, A, B, To>, a, b, to, sizes);
  };
  gemm_in_parts<float, static_cast<int>(kLargeTile)>(device, run, result, s);
}

// Whether F's elements are packs along its lines, or along k.
template <bool kLines, typename F>
bool packs_along(const F& factor, int64_t lines, int64_t k) {
  return factor.along_k != kLines && factor.packs(lines, k);
}
template <bool kLines, typename F>
constexpr bool kPacks = kLines ? F::kPacksLines : F::kPacksTerms;

// Whether it was launched.
template <bool kALines, bool kBLines, typename A, typename B, typename R>
bool try_packs(const Device& device, const A& a, const B& b, const R& result, const GemmSizes& s) {
  if constexpr (kPacks<kALines, A> && kPacks<kBLines, B>) {
    if (!packs_along<kALines>(a, s.m, s.k) || !packs_along<kBLines>(b, s.n, s.k)) return false;
    mma_pack_gemm<kALines, kBLines>(device, a, b, result, s);
    return true;
  }
  return false;
}

template <bool kMayPack, typename A, typename B, typename R>
void mma_gemm(const Device& device, const A& a, const B& b, const R& result, const GemmSizes& s) {
  if constexpr (kMayPack) {
    if (std::min(s.m, s.n) >= 32 && (try_packs<false, false>(device, a, b, result, s) ||
                                     try_packs<false, true>(device, a, b, result, s) ||
                                     try_packs<true, false>(device, a, b, result, s) ||
                                     try_packs<true, true>(device, a, b, result, s))) {
      return;
    }
  }
  const auto run = [&](const Grid& grid, const auto& to, const GemmSizes& sizes) {
    using To = std::decay_t<decltype(to)>;
    launch(device, grid, mma_gather_kernel<A, B, To>, a, b, to, sizes);
  };
  gemm_in_parts<float, 64>(device, run, result, s);
}

// C = A B, by what suits the elements and the sizes. Callers whose factors never lie in packs spare
// the compiler the kernels for them.
template <bool kMayPack = true, typename A, typename B, typename R>
void gemm(const Device& device, const A& a, const B& b, const R& result, const GemmSizes& s) {
  if (s.m == 0 || s.n == 0 || s.problems == 0) return;
  using T = typename A::Element;
  if constexpr (sizeof(T) == 2) {
    mma_gemm<kMayPack>(device, a, b, result, s);
  } else if constexpr (std::is_same_v<T, float>) {
    if (device.tf32) return mma_gemm<kMayPack>(device, a, b, result, s);
    if (fills(device, s)) return fma_gemm<kLargeTile>(device, a, b, result, s);
    fma_gemm<kLargeTile / 2>(device, a, b, result, s);
  } else {
    fma_gemm<kLargeTile / 2>(device, a, b, result, s);
  }
}

}  // namespace fastdl::cuda
