// C = A B, (m x n) = (m x k) (k x n), in register tiles over packed strips.
//
// gemm_block<T>(c, ldc, m, n, k, pack_a, pack_b, start, scratch) is serial; scratch has room for
// gemm_scratch<T>(n, k) values. With MR = GemmTile<T>::rows and NR = GemmTile<T>::cols, it calls
//   pack_a(strip, i, rows, p, depth):  strip[q * MR + r] = A[i + r, p + q],  r < rows, q < depth
//   pack_b(strip, j, cols, p, depth):  strip[q * NR + s] = B[p + q, j + s],  s < cols, q < depth
// with i and j multiples of MR and NR; what else lies in a strip does not matter, but 0 is best: a
// denormal in an unused lane costs Intel's CPUs 150 cycles a multiplication. A packer may leave the
// strip alone and return where such elements lie, a Strip: packing costs a quarter of a cycle an
// element, as much as 16 multiplications. PackRows and PackCols, for matrices in memory, do so
// where they can. start is what the sums are added to: {} for C = A B, {c, ldc, 1} for C += A B,
// {bias, 1, 0} for a bias per row, {bias, 0, 1} for one per column.
#pragma once

#include "core/parallel.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// 8 x 3 vectors of sums, 3 of B and one of A fill 28 of 32 registers, 4 x 3 all of 16; one lane, in
// SSE registers after all, likes 4 x 4.
template <typename T>
struct GemmTile {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int rows = kVecRegisters == 32 ? 8 : 4;
  static constexpr int vectors = lanes == 1 ? 4 : 3;
  static constexpr int cols = vectors * lanes;
  // Of the sums kept in registers. Each ends in one addition to C, so errors grow no further; a
  // strip of A (16 KB of float) stays in L1, the strips of B for max_cols columns in L2.
  static constexpr int64_t max_depth = 512;
  static constexpr int64_t max_cols = 512 * 1024 / (max_depth * int64_t{sizeof(T)}) / cols * cols;
};

// What C[i, j] starts from: data[i * row_stride + j * col_stride], col_stride 0 or 1; null for 0.
template <typename T>
struct GemmStart {
  const T* data = nullptr;
  int64_t row_stride = 0, col_stride = 0;

  FASTDL_INLINE GemmStart at(int64_t i, int64_t j) const {
    return {data ? data + i * row_stride + j * col_stride : nullptr, row_stride, col_stride};
  }
};

// A matrix in memory: element (i, j) is data[i * row_stride + j * col_stride].
template <typename T>
struct Matrix {
  const T* data;
  int64_t row_stride, col_stride;

  FASTDL_INLINE const T* at(int64_t i, int64_t j) const {
    return data + i * row_stride + j * col_stride;
  }
  FASTDL_INLINE Matrix transposed() const { return {data, col_stride, row_stride}; }
};

// strip[q * Width + r] = M[r, q] for r < rows, q < depth, and 0 in the other lanes of a vector. The
// strip has room for depth rounded up to a vector.
template <int Width, typename T>
void pack_strip(T* strip, Matrix<T> matrix, int rows, int64_t depth) {
  constexpr int lanes = Vec<T>::lanes;
  if (matrix.row_stride == 1) {
    for (int64_t q = 0; q < depth; ++q) {
      const T* from = matrix.at(0, q);
      if (rows == Width) {
        memcpy(strip + q * Width, from, Width * sizeof(T));
      } else {
        for_each_vec<T>(rows, [&](int64_t r, int n) {
          const Vec<T> v = load(from + r, n);
          if (Width % lanes == 0) {
            store(strip + q * Width + r, v);
          } else {
            store(strip + q * Width + r, v, n);
          }
        });
      }
    }
  } else if (matrix.col_stride == 1) {
    constexpr int group = Width < lanes ? Width : lanes;
    for (int r = 0; r < rows; r += group) {
      for_each_vec<T>(depth, [&](int64_t q, int n) {
        Vec<T> v[group];
#pragma GCC unroll 16
        for (int i = 0; i < group; ++i) {
          v[i] = r + i < rows ? load(matrix.at(r + i, q), n) : zero<T>();
          __builtin_prefetch(matrix.at(r + i + Width, q));  // the next strip
        }
        interleave(v);
#pragma GCC unroll 16
        for (int i = 0; i < group; ++i) store(strip + (q + i * lanes / group) * Width + r, v[i]);
      });
    }
  } else {
    for (int64_t q = 0; q < depth; ++q) {
      for (int r = 0; r < Width; ++r) strip[q * Width + r] = r < rows ? *matrix.at(r, q) : T(0);
    }
  }
}

// Where the packed, or just as well the unpacked, elements of a strip lie: those of A at
// data[r * across + q * along], those of B at data[s + q * along].
template <typename T>
struct Strip {
  const T* data;
  int64_t across, along;
};

// Lines of memory so far apart that `depth` of them still lie in L2 without pushing each other out.
template <typename T>
FASTDL_INLINE bool fits_in_place(int64_t stride, int64_t depth) {
  return stride * depth <= 512 * 1024 / int64_t{sizeof(T)};
}

template <typename T>
struct PackRows {
  Matrix<T> a;
  FASTDL_INLINE Strip<T> operator()(T* strip, int64_t i, int rows, int64_t p, int64_t depth) const {
    if (a.col_stride == 1 || (a.row_stride == 1 && fits_in_place<T>(a.col_stride, depth))) {
      return {a.at(i, p), a.row_stride, a.col_stride};
    }
    pack_strip<GemmTile<T>::rows>(strip, {a.at(i, p), a.row_stride, a.col_stride}, rows, depth);
    return {strip, 1, GemmTile<T>::rows};
  }
};

template <typename T>
struct PackCols {
  Matrix<T> b;
  FASTDL_INLINE Strip<T> operator()(T* strip, int64_t j, int cols, int64_t p, int64_t depth) const {
    if (cols % GemmTile<T>::lanes == 0 && b.col_stride == 1 &&
        fits_in_place<T>(b.row_stride, depth)) {
      return {b.at(p, j), 1, b.row_stride};
    }
    pack_strip<GemmTile<T>::cols>(strip, {b.at(p, j), b.col_stride, b.row_stride}, cols, depth);
    return {strip, 1, GemmTile<T>::cols};
  }
};

// Strips packed beforehand, as deep as all of the matrix: that of rows i.. from column p on begins
// at (i, p), that of columns j.. from row p on at (p, j).
template <typename T>
struct PackedRows {
  Matrix<T> a;
  FASTDL_INLINE Strip<T> operator()(T*, int64_t i, int, int64_t p, int64_t) const {
    return {a.at(i, p), 1, a.col_stride};
  }
};

template <typename T>
struct PackedCols {
  Matrix<T> b;
  FASTDL_INLINE Strip<T> operator()(T*, int64_t j, int, int64_t p, int64_t) const {
    return {b.at(p, j), 1, b.row_stride};
  }
};

// What `pack` made of a strip; one that returns nothing has packed it.
template <int Width, typename T, typename Pack>
FASTDL_INLINE Strip<T> packed(Pack& pack, T* strip, int64_t i, int count, int64_t p,
                              int64_t depth) {
  if constexpr (__is_same(decltype(pack(strip, i, count, p, depth)), void)) {
    pack(strip, i, count, p, depth);
    return {strip, 1, Width};
  } else {
    return pack(strip, i, count, p, depth);
  }
}

// What a term of the sums is: an element of A and one of B multiplied. Others may take them for
// something else, as matmul.cpp does with pairs of bfloat16.
struct Product {
  template <typename T>
  static FASTDL_INLINE Vec<T> add(Vec<T> a, Vec<T> b, Vec<T> sum) {
    return fma(a, b, sum);
  }
  // At each step of k.
  FASTDL_INLINE void step() {}
};

// C = start + A B for one tile of Rows x Vectors, the last vector with last_lanes.
template <typename T, typename Term, int Rows, int Vectors>
void gemm_tile(T* c, int64_t ldc, const Strip<T>& strip_a, const Strip<T>& strip_b, int64_t depth,
               int last_lanes, const GemmStart<T>& start, Term term) {
  constexpr int lanes = Vec<T>::lanes;
  const T* a[Rows];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) a[i] = strip_a.data + i * strip_a.across;
  const T* b = strip_b.data;
  Vec<T> sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) sum[i][j] = zero<T>();
  }
// Four steps to one addition to the counters: conv2d 1x1 forward takes 1 to 6 % less.
#pragma GCC unroll 4
  for (int64_t at = 0, end = depth * strip_a.along; at < end; at += strip_a.along) {
    term.step();
    Vec<T> row[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const Vec<T> factor = broadcast(a[i][at]);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) sum[i][j] = Term::add(factor, row[j], sum[i][j]);
    }
    b += strip_b.along;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      const int n = j < Vectors - 1 ? lanes : last_lanes;
      const T* from = start.at(i, j * lanes).data;
      Vec<T> v = sum[i][j];
      if (from) v = (start.col_stride ? load(from, n) : broadcast(*from)) + v;
      if (n == lanes) {
        store(c + i * ldc + j * lanes, v);
      } else {
        store(c + i * ldc + j * lanes, v, n);
      }
    }
  }
}

// The tile kernels for 1..rows rows and 1..vectors vectors.
template <typename T, typename Term>
struct GemmKernels {
  using Tile = GemmTile<T>;
  using Kernel = void (*)(T*, int64_t, const Strip<T>&, const Strip<T>&, int64_t, int,
                          const GemmStart<T>&, Term);
  Kernel kernels[Tile::rows][Tile::vectors];

  template <int I = 0>
  constexpr void fill() {
    if constexpr (I < Tile::rows * Tile::vectors) {
      kernels[I / Tile::vectors][I % Tile::vectors] =
          gemm_tile<T, Term, I / Tile::vectors + 1, I % Tile::vectors + 1>;
      fill<I + 1>();
    }
  }
  constexpr GemmKernels() : kernels() { fill(); }
};
template <typename T, typename Term>
inline constexpr GemmKernels<T, Term> gemm_kernels;

// n cut into equal parts of at most `most`, each a multiple of step (which divides most).
FASTDL_INLINE int64_t equal_parts(int64_t n, int64_t most, int64_t step) {
  return n <= most ? round_up(n, step) : round_up(ceil_div(n, ceil_div(n, most)), step);
}

template <typename T>
FASTDL_INLINE int64_t gemm_depth(int64_t k) {
  return equal_parts(k > 0 ? k : 1, GemmTile<T>::max_depth, 16);
}

template <typename T>
FASTDL_INLINE int64_t gemm_cols(int64_t n) {
  return equal_parts(n, GemmTile<T>::max_cols, GemmTile<T>::cols);
}

template <typename T>
FASTDL_INLINE int64_t gemm_scratch(int64_t n, int64_t k) {
  return gemm_depth<T>(k) * (GemmTile<T>::rows + gemm_cols<T>(n));
}

template <typename T, typename Term = Product, typename PackA, typename PackB>
void gemm_block(T* c, int64_t ldc, int64_t m, int64_t n, int64_t k, PackA&& pack_a, PackB&& pack_b,
                GemmStart<T> start, T* scratch) {
  using Tile = GemmTile<T>;
  const int64_t max_depth = gemm_depth<T>(k), max_cols = gemm_cols<T>(n);
  T *scratch_a = scratch, *scratch_b = scratch + max_depth * Tile::rows;
  for (int64_t j0 = 0; j0 < n; j0 += max_cols) {
    const int64_t j1 = n - j0 < max_cols ? n : j0 + max_cols;
    const int64_t strips = ceil_div(j1 - j0, Tile::cols);
    for (int64_t p = 0; p == 0 || p < k; p += max_depth) {
      const int64_t depth = k - p < max_depth ? k - p : max_depth;
      const GemmStart<T> from = p > 0 ? GemmStart<T>{c, ldc, 1} : start;
      Strip<T> strips_b[Tile::max_cols / Tile::cols];
      for (int64_t s = 0; s < strips; ++s) {
        const int64_t j = j0 + s * Tile::cols;
        const int cols = j1 - j < Tile::cols ? static_cast<int>(j1 - j) : Tile::cols;
        strips_b[s] =
            packed<Tile::cols>(pack_b, scratch_b + (j - j0) * max_depth, j, cols, p, depth);
      }
      for (int64_t i = 0; i < m; i += Tile::rows) {
        const int rows = m - i < Tile::rows ? static_cast<int>(m - i) : Tile::rows;
        const Strip<T> strip_a = packed<Tile::rows>(pack_a, scratch_a, i, rows, p, depth);
        for (int64_t s = 0; s < strips; ++s) {
          const int64_t j = j0 + s * Tile::cols;
          const int cols = j1 - j < Tile::cols ? static_cast<int>(j1 - j) : Tile::cols;
          const int last = (cols - 1) / Tile::lanes;
          gemm_kernels<T, Term>.kernels[rows - 1][last](c + i * ldc + j, ldc, strip_a, strips_b[s],
                                                        depth, cols - last * Tile::lanes,
                                                        from.at(i, j), Term{});
        }
      }
    }
  }
}

}  // namespace fastdl::FASTDL_ISA
