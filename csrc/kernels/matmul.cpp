// C = activation(bias + A B + residual) over batches, by threads: C is cut into blocks, and where
// those are few, the sum over k as well; its parts are then added in order. All cuts follow from
// the sizes alone.
//
// gemm runs core/gemm.h on each block. A matrix times a vector or two is bound by reading the
// matrix once: rows that lie in a line are dot products, four at a time; columns are added up,
// eight at a time.
#include "kernels/matmul.h"

#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/cache.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/transposed.h"
#include "kernels/elementwise.h"

namespace fastdl::FASTDL_ISA {
namespace {

// As many blocks as keep some threads busy, of so many multiplications each.
constexpr int64_t kMinBlocks = 16;
constexpr int64_t kGemmGrain = 500'000;
constexpr int64_t kGemvGrain = 64 * 1024;

// The size of a block of C, and of the part of k it takes at a time.
struct Blocks {
  int64_t m, n, k;
};

// Multiplications in all.
FASTDL_INLINE int64_t terms(const GemmPlan& plan) {
  return plan.batch.size * plan.m * plan.n * plan.k * plan.sum.size;
}

// n cut into `parts` equal parts, multiples of step.
FASTDL_INLINE int64_t part_size(int64_t n, int64_t parts, int64_t step) {
  return larger(round_up(ceil_div(n, parts), step), step);
}

// How many parts k is cut into, when C alone gives too few blocks.
FASTDL_INLINE int64_t parts_of_k(int64_t terms, int64_t blocks, int64_t k, int64_t grain) {
  return larger(1, smaller(smaller(kMinBlocks / blocks, terms / blocks / grain), k / 512));
}

// block(c, m, n, k, A, B, start, scratch of so many values) for all blocks.
template <typename T, typename Block>
FASTDL_INLINE void for_each_block(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                                  const Epilogue<T>& epilogue, Blocks size, int64_t grain,
                                  int64_t scratch_size, Block&& block) {
  const int64_t m = plan.m, n = plan.n, k = plan.k;
  const int64_t parts_m = ceil_div(m, size.m), parts_n = ceil_div(n, size.n);
  const int64_t parts_k = larger(ceil_div(k, size.k), 1), parts = parts_m * parts_n * parts_k;
  const Workspace<T> partial(parts_k > 1 ? plan.batch.size * parts_k * m * n : 0);
  const GemmStart<T> biases = {bias, plan.bias_row_stride, plan.bias_col_stride};
  parallel_ranges(
      plan.batch.size * parts,
      parts > 1 ? 1 : larger(grain / larger(m * n * k * plan.sum.size, 1), 1),
      [&](int64_t begin, int64_t end) {
        const Workspace<T> scratch(in_huge_page<T>(scratch_size));
        for (int64_t index = begin; index < end; ++index) {
          const int64_t matrix = index / parts, part = index % parts, part_k = part % parts_k;
          const int64_t i = part / parts_k / parts_n * size.m, p = part_k * size.k;
          const int64_t j = part / parts_k % parts_n * size.n;
          const int64_t rows = smaller(size.m, m - i), cols = smaller(size.n, n - j);
          T* out = (parts_k > 1 ? partial.data() + (matrix * parts_k + part_k) * m * n
                                : c + matrix * m * n) +
                   i * plan.c_row_stride + j * plan.c_col_stride;
          GemmStart<T> start = part_k == 0 ? biases.at(i, j) : GemmStart<T>{};
          int64_t a_batch, b_batch;
          plan.batch.offsets(matrix, &a_batch, &b_batch);
          for (int64_t s = 0; s < plan.sum.size; ++s) {
            int64_t a_sum, b_sum;
            plan.sum.offsets(s, &a_sum, &b_sum);
            const Matrix<T> left = {a + a_batch + a_sum, plan.a_row_stride, plan.a_col_stride};
            const Matrix<T> right = {b + b_batch + b_sum, plan.b_row_stride, plan.b_col_stride};
            block(out, rows, cols, smaller(size.k, k - p),
                  Matrix<T>{left.at(i, p), left.row_stride, left.col_stride},
                  Matrix<T>{right.at(p, j), right.row_stride, right.col_stride}, start,
                  scratch.data());
            start = {out, plan.c_row_stride, plan.c_col_stride};
          }
          if (parts_k > 1) continue;
          const bool lines = plan.c_col_stride == 1;
          apply_epilogue(out, lines ? plan.c_row_stride : plan.c_col_stride, lines ? rows : cols,
                         lines ? cols : rows, epilogue.at(out - c));
        }
      });
  if (parts_k == 1) return;
  parallel_ranges(plan.batch.size * m * n, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end;) {
      const int64_t matrix = at / (m * n), stop = smaller(end, (matrix + 1) * m * n);
      const T* first = partial.data() + matrix * parts_k * m * n + (at - matrix * m * n);
      for_each_vec<T>(stop - at, [&](int64_t i, int lanes) {
        Vec<T> sum = load(first + i, lanes);
        for (int64_t part = 1; part < parts_k; ++part) {
          sum += load(first + part * m * n + i, lanes);
        }
        store(c + at + i, sum, lanes);
      });
      apply_epilogue(c + at, 0, 1, stop - at, epilogue.at(at));
      at = stop;
    }
  });
}

// A whose columns are contiguous is taken so many terms at a time: these more often lie close
// enough not to be packed.
constexpr int64_t kColumnTerms = 256;

template <typename T>
FASTDL_INLINE bool packs_rows(const GemmPlan& plan) {
  return plan.a_col_stride != 1 && !fits_in_place<T>(plan.a_col_stride, kColumnTerms);
}

// With few terms, time goes into writing C. One that exceeds the caches is computed some rows at a
// time in L2 and written past them: a store of its own would first read the line.
constexpr int64_t kFewTerms = 64, kRowsInL2 = 64, kColsInL2 = 1008;

template <typename T>
FASTDL_INLINE bool writes_past_caches(const GemmPlan& plan, const Epilogue<T>& epilogue) {
  return plan.k <= kFewTerms && plan.n >= 4 * GemmTile<T>::cols && plan.sum.size == 1 &&
         plan.c_col_stride == 1 && epilogue.empty() &&
         exceeds_cache(plan.batch.size * plan.m * plan.n * int64_t{sizeof(T)});
}

template <typename T>
void copy_past_caches(T* c, int64_t ldc, const T* from, int64_t width, int64_t rows, int64_t cols) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* row = from + i * width;
    store_map(c + i * ldc, cols, true,
              [=](int64_t j, int n) FASTDL_INLINE_LAMBDA { return load(row + j, n); });
  }
}

// Blocks of 1024 rows, enough to make up for packing B, and the columns core/gemm.h packs at once.
// They are halved where they are few and large: along the columns, which costs nothing unless A is
// packed, to be shared out evenly, if there are enough to do so; along the rows to keep some
// threads busy.
//
// With 2 MB of L2, 512 rows: C's block (480 KB) stays there from one part of k to the next, beside
// the columns of B (480 KB). The L3 behind it is slow (Intel's servers), so a few columns, for
// which all of A is read again, are worse than few rows: 1024 x 1024 x 1024 takes 0.9 of the time.
template <typename T>
Blocks gemm_blocks(const GemmPlan& plan) {
  using Tile = GemmTile<T>;
  const bool large_l2 = level2_cache_bytes() >= int64_t{2} << 20;
  Blocks size = {equal_parts(plan.m, large_l2 ? 512 : 1024, Tile::rows), gemm_cols<T>(plan.n),
                 larger(plan.k, 1)};
  const auto count = [&] {
    return plan.batch.size * ceil_div(plan.m, size.m) * ceil_div(plan.n, size.n);
  };
  const int64_t work = terms(plan) + 16 * plan.batch.size * plan.m * plan.n;  // with writing C
  const auto large = [&](int64_t wanted) {
    return count() < wanted && work / count() > 2 * kGemmGrain;
  };
  const auto cut_cols = [&](int64_t wanted, int64_t least) {
    while (large(wanted) && size.n > least) size.n = part_size(size.n, 2, Tile::cols);
  };
  const auto cut_rows = [&](int64_t least) {
    while (large(kMinBlocks) && size.m > least) size.m = part_size(size.m, 2, Tile::rows);
  };
  const bool packs_a = packs_rows<T>(plan);
  // With few terms, time goes into writing C: whole rows of it.
  if (plan.n > 4 * Tile::cols && plan.k >= 64 && !packs_a) {
    if (large_l2) {
      cut_cols(kMinBlocks, 96);
      cut_rows(256);
    }
    cut_cols(large_l2 ? kMinBlocks : 2 * kMinBlocks, Tile::cols);
  }
  cut_rows(8 * Tile::rows);
  cut_cols(kMinBlocks, Tile::cols);
  size.k = part_size(plan.k, parts_of_k(terms(plan), count(), plan.k, kGemmGrain), 16);
  return size;
}

// c[j * ldc + i] = from[i * width + j]; rows of `from` end in a whole vector.
template <typename T>
void copy_transposed(T* c, int64_t ldc, const T* from, int64_t width, int64_t rows, int64_t cols) {
  for (int64_t j = 0; j < cols; j += Vec<T>::lanes) {
    const int64_t count = smaller(Vec<T>::lanes, cols - j);
    for_each_transposed(from + j, width, rows, [&](int64_t i, int n, const Vec<T>* v) {
      for (int64_t s = 0; s < count; ++s) store(c + (j + s) * ldc + i, v[s], n);
    });
  }
}

template <typename Term, template <typename> typename Rows, template <typename> typename Cols,
          typename T>
void gemm_blockwise(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                    const Epilogue<T>& epilogue) {
  const bool transposed = plan.c_col_stride != 1, past = writes_past_caches(plan, epilogue);
  const Blocks size =
      past ? Blocks{kRowsInL2, equal_parts(plan.n, kColsInL2, GemmTile<T>::cols), larger(plan.k, 1)}
           : gemm_blocks<T>(plan);
  const int64_t depth = smaller(size.k, GemmTile<T>::max_depth);
  const int64_t width = round_up(size.n, Vec<T>::lanes), strips = gemm_scratch<T>(size.n, depth);
  const bool aside = transposed || past;  // C's block is computed in L2
  for_each_block(
      c, a, b, bias, plan, epilogue, size, kGemmGrain, strips + (aside ? size.m * width : 0),
      [&](T* c, int64_t m, int64_t n, int64_t k, Matrix<T> a, Matrix<T> b, GemmStart<T> start,
          T* scratch) {
        T* to = aside ? scratch + strips : c;
        const int64_t ld = aside ? width : plan.c_row_stride;
        const bool columns = a.row_stride == 1 && a.col_stride != 1;
        const int64_t most = columns ? kColumnTerms : larger(k, 1);
        for (int64_t p = 0; p == 0 || p < k; p += most) {
          gemm_block<T, Term>(to, ld, m, n, smaller(most, k - p),
                              Rows<T>{{a.at(0, p), a.row_stride, a.col_stride}},
                              Cols<T>{{b.at(p, 0), b.row_stride, b.col_stride}}, start, scratch);
          start = {to, ld, 1};
        }
        if (transposed) copy_transposed(c, plan.c_col_stride, to, width, m, n);
        if (past) copy_past_caches(c, plan.c_row_stride, to, width, m, n);
      });
}

// How many elements a strip holds to the next one, for k terms.
FASTDL_INLINE int64_t strip_depth(int64_t k) { return round_up(k, 16); }

// A spare row at the end makes the size of every instruction set another.
template <typename T>
int64_t packed_size(int64_t n, int64_t k) {
  return (round_up(n, GemmTile<T>::cols) * strip_depth(k)) + GemmTile<T>::cols;
}

// task(first of some strips, how many rows or columns they hold, p, depth) for all parts of
// `count` rows or columns and k terms.
template <typename Task>
FASTDL_INLINE void for_each_part(int64_t count, int64_t strips, int64_t k, Task&& task) {
  constexpr int64_t kDepth = 256;
  const int64_t parts = ceil_div(k, kDepth);
  parallel_for(ceil_div(count, strips) * parts, [&](int64_t index) {
    const int64_t i = index / parts * strips, p = index % parts * kDepth;
    task(i, smaller(strips, count - i), p, smaller(kDepth, k - p));
  });
}

template <typename T>
void pack(T* packed, const T* b, const GemmPlan& plan) {
  constexpr int width = GemmTile<T>::cols;
  const Matrix<T> matrix = {b, plan.b_col_stride, plan.b_row_stride};
  for_each_part(plan.n, width, plan.k, [&](int64_t j, int64_t cols, int64_t p, int64_t depth) {
    pack_strip<width>(packed + j * strip_depth(plan.k) + p * width,
                      {matrix.at(j, p), matrix.row_stride, matrix.col_stride},
                      static_cast<int>(cols), depth);
  });
}

// The rows of A, whose columns are contiguous: whole cache lines at a time, 8 strips of a row.
template <typename T>
void pack_rows(T* packed, const T* a, const GemmPlan& plan) {
  constexpr int64_t width = GemmTile<T>::rows, group = 8 * width;
  const int64_t depth_of_all = strip_depth(plan.k);
  for_each_part(plan.m, group, plan.k, [&](int64_t i, int64_t rows, int64_t p, int64_t depth) {
    for (int64_t q = p; q < p + depth; ++q) {
      const T* from = a + q * plan.a_col_stride + i;
      T* to = packed + i * depth_of_all + q * width;
      int64_t r = 0;
      for (; r + width <= rows; r += width)
        memcpy(to + r * depth_of_all, from + r, width * sizeof(T));
      for (int64_t last = r; r < rows; ++r) to[last * depth_of_all + r - last] = from[r];
    }
  });
}

// A that blocks of other columns would pack again is packed once for all of them: dweight of (128,
// 768) to 3072 takes 1.25 instead of 1.38 ms, 2048 x 2048 x 2048 38 to 40 instead of 40 to 42.
template <typename Term, typename T>
void gemm(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
          const Epilogue<T>& epilogue) {
  if (packs_rows<T>(plan) && plan.a_row_stride == 1 && plan.batch.size == 1 && plan.sum.size == 1 &&
      plan.n > GemmTile<T>::max_cols) {
    const Workspace<T> packed(round_up(plan.m, GemmTile<T>::rows) * strip_depth(plan.k));
    pack_rows(packed.data(), a, plan);
    GemmPlan in_strips = plan;
    in_strips.a_row_stride = strip_depth(plan.k);
    in_strips.a_col_stride = GemmTile<T>::rows;
    return gemm_blockwise<Term, PackedRows, PackCols>(c, packed.data(), b, bias, in_strips,
                                                      epilogue);
  }
  gemm_blockwise<Term, PackRows, PackCols>(c, a, b, bias, plan, epilogue);
}

template <typename T>
void gemm_packed(T* c, const T* a, const T* packed, const T* bias, const GemmPlan& plan,
                 const Epilogue<T>& epilogue) {
  GemmPlan in_strips = plan;
  in_strips.b_row_stride = GemmTile<T>::cols;
  in_strips.b_col_stride = strip_depth(plan.k);
  gemm_blockwise<Product, PackRows, PackedCols>(c, a, packed, bias, in_strips, epilogue);
}

// Two neighbours along k of a bfloat16 matrix, the first in the lower half, lie in a float.
#if defined(__AVX512F__)
struct PairProduct : Product {
  // Both products at once; inline assembly, as the other kernels must run without AVX512_BF16.
  static FASTDL_INLINE Vec<float> add(Vec<float> a, Vec<float> b, Vec<float> sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
    return sum;
  }
};
#endif

template <typename T>
constexpr typename MatmulKernels<T>::Product gemm_pairs() {
#if defined(__AVX512F__)
  if constexpr (__is_same(T, float)) return gemm<PairProduct, float>;
#endif
  return nullptr;
}

// Pairs of neighbours in a row of x (rows, cols), or in a column; 0 goes with the last if it is
// odd.
void pair_in_rows(uint32_t* pairs, const bfloat16* x, int64_t rows, int64_t cols) {
  const int64_t width = (cols + 1) / 2;
  parallel_ranges(rows, ceil_div(kGemvGrain, cols + 1), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const bfloat16* row = x + i * cols;
      for (int64_t j = 0; j < cols / 2; ++j) {
        pairs[i * width + j] = row[2 * j].bits | uint32_t{row[2 * j + 1].bits} << 16;
      }
      if (cols % 2) pairs[i * width + width - 1] = row[cols - 1].bits;
    }
  });
}

void pair_in_columns(uint32_t* pairs, const bfloat16* x, int64_t matrices, int64_t rows,
                     int64_t cols) {
  const int64_t height = (rows + 1) / 2;
  parallel_ranges(matrices * height, ceil_div(kGemvGrain, cols + 1),
                  [=](int64_t begin, int64_t end) {
                    for (int64_t at = begin; at < end; ++at) {
                      const int64_t matrix = at / height, i = at % height * 2;
                      const bfloat16 *even = x + (matrix * rows + i) * cols, *odd = even + cols;
                      uint32_t* to = pairs + at * cols;
                      if (i + 1 < rows) {
                        for (int64_t j = 0; j < cols; ++j)
                          to[j] = even[j].bits | uint32_t{odd[j].bits} << 16;
                      } else {
                        for (int64_t j = 0; j < cols; ++j) to[j] = even[j].bits;
                      }
                    }
                  });
}

template <typename T>
Blocks gemv_blocks(const GemmPlan& plan, int64_t rows) {
  const int64_t blocks = plan.batch.size * ceil_div(plan.m, rows);
  const int64_t parts = parts_of_k(terms(plan), blocks, plan.k, kGemvGrain);
  return {rows, plan.n, part_size(plan.k, parts, 64)};
}

// The sums of A[r, p] B[p, j] for Rows rows of A and Cols columns of B, both contiguous along p: 64
// vectors (or 512 numbers) in the lanes, then in double.
template <int Rows, int Cols, typename T>
void dot_tile(T* c, int64_t c_row_stride, int64_t c_col_stride, int64_t k, Matrix<T> a, Matrix<T> b,
              GemmStart<T> start) {
  a.col_stride = b.row_stride = 1;  // as the compiler should know
  constexpr int64_t kDepth = Vec<T>::lanes == 1 ? 512 : 64 * Vec<T>::lanes;
  double total[Rows][Cols];
  for (int r = 0; r < Rows; ++r) {
    for (int j = 0; j < Cols; ++j) total[r][j] = start.data ? *start.at(r, j).data : 0;
  }
  for (int64_t begin = 0; begin < k; begin += kDepth) {
    Vec<T> sum[Rows][Cols];
    for (auto& row : sum) {
      for (Vec<T>& v : row) v = zero<T>();
    }
    for_each_vec<T>(smaller(k - begin, kDepth), [&](int64_t p, int lanes) {
      Vec<T> factor[Cols];
#pragma GCC unroll 4
      for (int j = 0; j < Cols; ++j) factor[j] = load(b.at(begin + p, j), lanes);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        const Vec<T> v = load(a.at(r, begin + p), lanes);
#pragma GCC unroll 4
        for (int j = 0; j < Cols; ++j) sum[r][j] = fma(v, factor[j], sum[r][j]);
      }
    });
    for (int r = 0; r < Rows; ++r) {
      for (int j = 0; j < Cols; ++j) total[r][j] += static_cast<double>(reduce_add(sum[r][j]));
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int j = 0; j < Cols; ++j) {
      c[r * c_row_stride + j * c_col_stride] = static_cast<T>(total[r][j]);
    }
  }
}

template <typename T>
void dots(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
          const Epilogue<T>& epilogue) {
  constexpr int64_t kRows = kVecRegisters == 32 ? 4 : 2, kCols = 4;
  using Tile = void (*)(T*, int64_t, int64_t, int64_t, Matrix<T>, Matrix<T>, GemmStart<T>);
  constexpr Tile tiles[2][kCols] = {
      {dot_tile<1, 1, T>, dot_tile<1, 2, T>, dot_tile<1, 3, T>, dot_tile<1, 4, T>},
      {dot_tile<kRows, 1, T>, dot_tile<kRows, 2, T>, dot_tile<kRows, 3, T>, dot_tile<kRows, 4, T>}};
  const Blocks size = gemv_blocks<T>(plan, round_up(kGemvGrain / larger(plan.k, 1) + 1, kRows));
  for_each_block(
      c, a, b, bias, plan, epilogue, size, kGemvGrain, 0,
      [&](T* c, int64_t m, int64_t n, int64_t k, Matrix<T> a, Matrix<T> b, GemmStart<T> start, T*) {
        for (int64_t i = 0, rows; i < m; i += rows) {
          rows = m - i < kRows ? 1 : kRows;
          for (int64_t j = 0; j < n; j += kCols) {
            tiles[rows == kRows][smaller(kCols, n - j) - 1](
                c + i * plan.c_row_stride + j * plan.c_col_stride, plan.c_row_stride,
                plan.c_col_stride, k, {a.at(i, 0), a.row_stride, 1}, {b.at(0, j), 1, b.col_stride},
                start.at(i, j));
          }
        }
      });
}

// sum[i] += sum_p A[i, p] b[p] for Columns columns p.
template <int Columns, typename T>
FASTDL_INLINE void add_columns(T* sum, int64_t m, Matrix<T> a, const T* b) {
  Vec<T> factors[Columns];
  for (int p = 0; p < Columns; ++p) factors[p] = broadcast(b[p]);
  for_each_vec<T>(m, [&](int64_t i, int lanes) {
    Vec<T> total = load(sum + i, lanes);
#pragma GCC unroll 8
    for (int p = 0; p < Columns; ++p) total = fma(load(a.at(i, p), lanes), factors[p], total);
    store(sum + i, total, lanes);
  });
}

constexpr int64_t kMaxColumn = 1024;  // a part of a column, and of the sums, that stay in L1

template <typename T>
void gemv_columns(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                  const Epilogue<T>& epilogue) {
  for_each_block(
      c, a, b, bias, plan, epilogue, gemv_blocks<T>(plan, kMaxColumn), kGemvGrain, 0,
      [](T* y, int64_t m, int64_t, int64_t k, Matrix<T> a, Matrix<T> b, GemmStart<T> start, T*) {
        T sum[kMaxColumn];
        for (int64_t i = 0; i < m; ++i) y[i] = start.data ? *start.at(i, 0).data : T(0);
        for (int64_t begin = 0; begin < k; begin += 256) {
          memset(sum, 0, static_cast<size_t>(m) * sizeof(T));
          const int64_t end = smaller(k, begin + 256);
          int64_t p = begin;
          for (; p + 8 <= end; p += 8) {
            add_columns<8>(sum, m, {a.at(0, p), 1, a.col_stride}, b.data + p);
          }
          for (; p < end; ++p) {
            add_columns<1>(sum, m, {a.at(0, p), 1, a.col_stride}, b.data + p);
          }
          for_each_vec<T>(m, [&](int64_t i, int lanes) {
            store(y + i, load(y + i, lanes) + load(sum + i, lanes), lanes);
          });
        }
      });
}

}  // namespace

FASTDL_DEFINE_KERNELS(MatmulKernels, matmul_kernels, gemm<Product, T>, gemm_packed<T>,
                      packed_size<T>, pack<T>, dots<T>, gemv_columns<T>, gemm_pairs<T>(),
                      pair_in_rows, pair_in_columns)

}  // namespace fastdl::FASTDL_ISA
