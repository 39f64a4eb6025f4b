// Lines of a matrix in the order AMX's tiles want them, as sums of numbers of bfloat16.
//
// A float is the sum of three: p0 + p1 + p2, each what the ones before it leave, rounded; 3 x 8
// bits hold its 24. Of the nine products of two such numbers six are kept; what is left out is
// less than 2^-25 of the whole (G. Henry, P. T. P. Tang, A. Heinecke, Leveraging the bfloat16
// artificial intelligence datatype for higher-precision computations, ARITH 2019). A float16 is the
// sum of two, a bfloat16 is one itself.
//
// Tiles take denormals for zeros, so a float is split times 2^24: then even the parts of the least
// are none, and of products nothing is lost down to 2^-174. What is too large, inf and NaN leave
// sums that are not finite: unscale() tells, and multiply_unsplit() takes the numbers as they are.
#pragma once

#include <immintrin.h>

#include "core/gemm.h"
#include "core/integers.h"
#include "core/multiply.h"
#include "core/parts.h"
#include "core/tiles.h"

namespace fastdl::FASTDL_ISA {

// A strip is up to 32 rows of A, or columns of B. For each 32 terms, and each part, it has the tile
// of 16 lines and that of the other 16. Which terms make a pair is up to how they are read.
constexpr int kStripLines = 2 * kTileRows;
constexpr int kStepTerms = 2 * kTilePairs;
template <typename E>
constexpr int64_t kStepBytes = kParts<E> * 2 * kTileBytes;

template <typename E>
FASTDL_INLINE int64_t strip_bytes(int64_t depth) {
  return ceil_div(depth, kStepTerms) * kStepBytes<E>;
}

// What numbers are multiplied by before they are split.
template <typename E>
constexpr float kScale = 1;
template <>
inline constexpr float kScale<float> = 0x1p24f;
template <typename E>
constexpr float kUnscale = 1 / (kScale<E> * kScale<E>);  // their products

// No NaN, which bits might take for a number, but -inf in its place.
template <typename E>
FASTDL_INLINE Vec<float> scaled(Vec<float> v) {
  if constexpr (kScale<E> != 1) v = v * broadcast(kScale<E>);
  return max(v, broadcast(-__builtin_inff()));
}

// The parts of 16 pairs, the first of each in the lower half. What two leave of a float is one.
template <int Parts>
FASTDL_INLINE void store_parts(char* to, Vec<float> first, Vec<float> second) {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(~0xffff);
#pragma GCC unroll 3
  for (int part = 0; part < Parts; ++part, to += 2 * kTileBytes) {
    __m512i a = _mm512_castps_si512(first.v), b = _mm512_castps_si512(second.v);
    if (part < 2) {
      a = _mm512_add_epi32(a, half);
      b = _mm512_and_si512(_mm512_add_epi32(b, half), upper);
    }
    _mm512_store_si512(to, _mm512_or_si512(_mm512_srli_epi32(a, 16), b));
    first = first - Vec<float>{_mm512_castsi512_ps(_mm512_and_si512(a, upper))};
    second = second - Vec<float>{_mm512_castsi512_ps(b)};
  }
}

// Splits the rows of a matrix into a strip, a quarter of a tile at a time, so that it can be done
// while tiles are multiplied. A tile has lines as its rows if RowsAreLines, for A, or else as its
// columns.
template <typename E, bool RowsAreLines>
class Splitter {
 public:
  static constexpr int kQuarters = 4;

  static int64_t quarters(int lines, int64_t depth) {
    return kQuarters * ceil_div(lines, kTileRows) * ceil_div(depth, kStepTerms);
  }

  Splitter() = default;
  Splitter(char* strip, Strided<E> from, int lines, int64_t depth)
      : strip_(strip), from_(from), lines_(lines), depth_(depth) {}

  FASTDL_INLINE bool done() const { return term_ >= depth_; }

  FASTDL_INLINE void step() {
    if (from_.col_stride == 1) {
      step_in<true>();
    } else {
      step_in<false>();
    }
    if (++quarter_ < kQuarters) return;
    quarter_ = 0;
    line_ += kTileRows;
    if (line_ < lines_) return;
    line_ = 0;
    term_ += kStepTerms;
    strip_ += kStepBytes<E>;
  }
  void finish() {
    while (!done()) step();
  }

 private:
  // Vectors of memory lie along the terms, or else across them.
  template <bool AlongTerms>
  FASTDL_INLINE void step_in() {
    const int rows = lines_ - line_ < kTileRows ? lines_ - line_ : kTileRows;
    const auto terms = static_cast<int>(smaller(depth_ - term_, kStepTerms));
    if (rows == kTileRows && terms == kStepTerms) {
      split<AlongTerms, true>(rows, terms);
    } else {
      split<AlongTerms, false>(rows, terms);
    }
  }

  // store(row of the tile, vectors) for a quarter of the tile whose row or, if AcrossRows, column i
  // is what load_row(i) gives: N vectors.
  template <int N, bool AcrossRows, typename LoadRow, typename Store>
  FASTDL_INLINE void for_each_row(LoadRow&& load_row, Store&& store) {
    if constexpr (!AcrossRows) {
      constexpr int kRows = kTileRows / kQuarters;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        Vec<float> v[N];
        load_row(quarter_ * kRows + r, v);
        store(quarter_ * kRows + r, v);
      }
    } else if (quarter_ == 0) {  // the tile as a whole
      Vec<float> rows[N][kTileRows];
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) {
        Vec<float> v[N];
        load_row(i, v);
#pragma GCC unroll 2
        for (int k = 0; k < N; ++k) rows[k][i] = v[k];
      }
#pragma GCC unroll 2
      for (int k = 0; k < N; ++k) interleave(rows[k]);
#pragma GCC unroll 16
      for (int i = 0; i < kTileRows; ++i) {
        Vec<float> v[N];
#pragma GCC unroll 2
        for (int k = 0; k < N; ++k) v[k] = rows[k][i];
        store(i, v);
      }
    }
  }

  template <bool AlongTerms, bool Whole>
  FASTDL_INLINE void split(int rows, int terms) {
    const E* const data = from_.data + line_ * from_.row_stride + term_ * from_.col_stride;
    const int64_t next = kStripLines * from_.row_stride;  // to the next strip
    char* const to = strip_ + line_ / kTileRows * kTileBytes;
    constexpr bool kAcrossRows = AlongTerms != RowsAreLines;
    if constexpr (kParts<E> == 1) {
      // Pairs lie in memory, or are put together of two rows.
      const auto load_row = [&](int i, Vec<float>(&v)[1]) FASTDL_INLINE_LAMBDA {
        if constexpr (AlongTerms) {
          const E* const line = data + i * from_.row_stride;
          __builtin_prefetch(line + next, 0, 2);
          v[0] = {_mm512_castsi512_ps(
              Whole ? _mm512_loadu_si512(line)
                    : _mm512_maskz_loadu_epi16(i < rows ? ~0u >> (kStepTerms - terms) : 0, line))};
        } else {
          const E *const even = data + 2 * i * from_.col_stride, *const odd =
                                                                     even + from_.col_stride;
          __builtin_prefetch(even + next, 0, 2);
          __builtin_prefetch(odd + next, 0, 2);
          const int lanes = Whole ? kTileRows : rows;
          const __m512i low = _mm512_cvtepu16_epi32(load_halves(even, 2 * i < terms ? lanes : 0));
          const __m512i high =
              _mm512_cvtepu16_epi32(load_halves(odd, 2 * i + 1 < terms ? lanes : 0));
          v[0] = {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
        }
      };
      for_each_row<1, kAcrossRows>(load_row,
                                   [&](int i, const Vec<float>(&v)[1]) FASTDL_INLINE_LAMBDA {
                                     _mm512_store_si512(to + i * 64, _mm512_castps_si512(v[0].v));
                                   });
    } else {
      // Terms i and i + 16 make a pair.
      const int64_t step = AlongTerms ? from_.row_stride : from_.col_stride;
      const auto load_row = [&](int i, Vec<float>(&v)[2]) FASTDL_INLINE_LAMBDA {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const E* const line = data + half * kTilePairs * from_.col_stride + i * step;
          __builtin_prefetch(line + next, 0, 2);
          if constexpr (Whole) {
            v[half] = scaled<E>(load(line));
          } else {
            const int left = terms - half * kTilePairs;
            const int count = left < 0 ? 0 : left < kTilePairs ? left : kTilePairs;
            v[half] = scaled<E>(AlongTerms ? load(line, i < rows ? count : 0)
                                           : load(line, i < count ? rows : 0));
          }
        }
      };
      for_each_row<2, kAcrossRows>(
          load_row, [&](int i, const Vec<float>(&v)[2])
                        FASTDL_INLINE_LAMBDA { store_parts<kParts<E>>(to + i * 64, v[0], v[1]); });
    }
  }

  char* strip_ = nullptr;
  Strided<E> from_{};
  int lines_ = 0, line_ = 0, quarter_ = 0;
  int64_t depth_ = 0, term_ = 0;
};

// C += A B, of two strips' Rows x Cols tiles: the sums of C are `ld` apart, and not read unless
// `add`. Each product needs only one of its parts loaded: 14 loads for 24 products of float. The
// vector units do meanwhile(), after every 32 terms.
template <int Parts, int Rows, int Cols, typename Meanwhile>
void multiply_strips(float* c, int64_t ld, const char* a, const char* b, int64_t depth, bool add,
                     Meanwhile& meanwhile) {
  const int64_t stride = ld * int64_t{sizeof(float)};
  float *const right = c + kTilePairs, *const below = c + kTileRows * ld;
  const auto load_a = [&](int part) FASTDL_INLINE_LAMBDA {
    load_tile<4>(a + part * 2 * kTileBytes);
    if constexpr (Rows == 2) load_tile<5>(a + part * 2 * kTileBytes + kTileBytes);
  };
  const auto load_b = [&](int part) FASTDL_INLINE_LAMBDA {
    load_tile<6>(b + part * 2 * kTileBytes);
    if constexpr (Cols == 2) load_tile<7>(b + part * 2 * kTileBytes + kTileBytes);
  };
  const auto multiply = []() FASTDL_INLINE_LAMBDA {
    multiply_tiles<0, 4, 6>();
    if constexpr (Cols == 2) multiply_tiles<1, 4, 7>();
    if constexpr (Rows == 2) multiply_tiles<2, 5, 6>();
    if constexpr (Rows == 2 && Cols == 2) multiply_tiles<3, 5, 7>();
  };
  if (add) {
    load_tile<0>(c, stride);
    if constexpr (Cols == 2) load_tile<1>(right, stride);
    if constexpr (Rows == 2) load_tile<2>(below, stride);
    if constexpr (Rows == 2 && Cols == 2) load_tile<3>(below + kTilePairs, stride);
  } else {
    zero_tile<0>();
    zero_tile<1>();
    zero_tile<2>();
    zero_tile<3>();
  }
  constexpr int64_t step = Parts * 2 * kTileBytes;
  for (int64_t q = 0; q < depth; q += kStepTerms, a += step, b += step) {
    load_a(0);
    load_b(Parts - 1);
    multiply();
    if constexpr (Parts == 3) {
      load_b(1);
      multiply();
      load_a(1);
      multiply();
      load_b(0);
      multiply();
      load_a(2);
      multiply();
      load_a(0);
      multiply();
    } else if constexpr (Parts == 2) {
      load_a(1);
      multiply();
      load_b(0);
      multiply();
      load_a(0);
      multiply();
    }
    meanwhile();
  }
  store_tile<0>(c, stride);
  if constexpr (Cols == 2) store_tile<1>(right, stride);
  if constexpr (Rows == 2) store_tile<2>(below, stride);
  if constexpr (Rows == 2 && Cols == 2) store_tile<3>(below + kTilePairs, stride);
}

template <int Parts, typename Meanwhile>
FASTDL_INLINE void multiply_strips(float* c, int64_t ld, const char* a, const char* b, int rows,
                                   int cols, int64_t depth, bool add, Meanwhile& meanwhile) {
  constexpr void (*kernels[2][2])(float*, int64_t, const char*, const char*, int64_t, bool,
                                  Meanwhile&) = {
      {multiply_strips<Parts, 1, 1, Meanwhile>, multiply_strips<Parts, 1, 2, Meanwhile>},
      {multiply_strips<Parts, 2, 1, Meanwhile>, multiply_strips<Parts, 2, 2, Meanwhile>}};
  kernels[rows > kTileRows][cols > kTilePairs](c, ld, a, b, depth, add, meanwhile);
}

// Sums become sums * factor, some rows at a time, so that it can be done while tiles are multiplied
// and these still lie in L1.
class Unscaling {
 public:
  Unscaling() = default;
  Unscaling(float* sums, int64_t ld, int64_t rows, int64_t cols, float factor)
      : sums_(sums), ld_(ld), left_(rows), cols_(cols), factor_(factor) {}

  FASTDL_INLINE void step() {
    constexpr int64_t kRows = 16;
    const int64_t rows = smaller(kRows, left_);
    for (int64_t i = 0; i < rows; ++i, sums_ += ld_) {
      for (int64_t j = 0; j < cols_; j += Vec<float>::lanes) {
        const Vec<float> v = load(sums_ + j);
        const __m512i size = _mm512_andnot_si512(_mm512_set1_epi32(1 << 31), bits(v));
        most_ = _mm512_max_epu32(most_, size);
        if (factor_ != 1) store(sums_ + j, v * broadcast(factor_));
      }
    }
    left_ -= rows;
  }
  // Whether all sums are finite.
  bool finish() {
    while (left_ > 0) step();
    return _mm512_reduce_max_epu32(most_) < 0x7f800000;
  }

 private:
  static FASTDL_INLINE __m512i bits(Vec<float> v) { return _mm512_castps_si512(v.v); }

  float* sums_ = nullptr;
  int64_t ld_ = 0, left_ = 0, cols_ = 0;
  float factor_ = 1;
  __m512i most_ = _mm512_setzero_si512();
};

// The numbers of up to 32 lines as float: where they lie, unless the lines must lie side by side.
template <bool SideBySide, typename E>
Strided<float> widened_lines(Strided<E> from, int lines, int64_t depth, float* scratch) {
  if constexpr (__is_same(E, float)) {
    if (!SideBySide || from.row_stride == 1) return from;
    pack_strip<kStripLines>(scratch, Matrix<float>{from.data, from.row_stride, from.col_stride},
                            lines, depth);
  } else {
    for (int64_t q = 0; q < depth; ++q) {
      for (int i = 0; i < lines; ++i) {
        scratch[q * kStripLines + i] =
            reduce_add(load(from.data + i * from.row_stride + q * from.col_stride, 1));
      }
    }
  }
  return {scratch, 1, kStripLines};
}

// C = A B, or C += A B, of the numbers themselves; `scratch` has room for 64 x depth.
template <typename A, typename B>
void multiply_unsplit(float* c, int64_t ld, Strided<A> a, Strided<B> b, int rows, int cols,
                      int64_t depth, bool add, float* scratch) {
  const Strided<float> left = widened_lines<false>(a, rows, depth, scratch);
  const Strided<float> right = widened_lines<true>(b, cols, depth, scratch + kStripLines * depth);
  float products[kStripLines * kStripLines];
  multiply<float>({products, kStripLines}, left, {right.data, right.col_stride}, rows, cols, depth);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; j += Vec<float>::lanes) {
      const Vec<float> sum = load(products + i * kStripLines + j);
      float* const to = c + i * ld + j;
      store(to, add ? load(to) + sum : sum);
    }
  }
}

}  // namespace fastdl::FASTDL_ISA
