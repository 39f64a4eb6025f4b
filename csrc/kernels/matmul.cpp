// C = bias + A B over batches, by threads: C is cut into blocks, and where those are few, the sum
// over k as well; its parts are then added in order. All cuts follow from the sizes alone.
//
// gemm runs core/gemm.h on each block. A matrix times a vector is bound by reading the matrix once:
// rows that lie in a line are dot products, four at a time; columns are added up, eight at a time.
#include "kernels/matmul.h"

#include "core/buffer_pool.h"
#include "core/gemm.h"
#include "core/parallel.h"

namespace fastdl::FASTDL_ISA {
namespace {

// As many blocks as keep some threads busy, of so many multiplications each.
constexpr int64_t kMinBlocks = 16;
constexpr int64_t kGemmGrain = 2'000'000;
constexpr int64_t kGemvGrain = 64 * 1024;

FASTDL_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
FASTDL_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

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
  return max(round_up(ceil_div(n, parts), step), step);
}

// How many parts k is cut into, when C alone gives too few blocks.
FASTDL_INLINE int64_t parts_of_k(int64_t terms, int64_t blocks, int64_t k, int64_t grain) {
  return max(1, min(min(kMinBlocks / blocks, terms / blocks / grain), k / 512));
}

// block(c, ldc, m, n, k, A, B, start) for all blocks.
template <typename T, typename Block>
FASTDL_INLINE void for_each_block(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan,
                                  Blocks size, int64_t grain, Block&& block) {
  const int64_t m = plan.m, n = plan.n, k = plan.k;
  const int64_t parts_m = ceil_div(m, size.m), parts_n = ceil_div(n, size.n);
  const int64_t parts_k = max(ceil_div(k, size.k), 1), parts = parts_m * parts_n * parts_k;
  const Workspace<T> partial(parts_k > 1 ? plan.batch.size * parts_k * m * n : 0);
  const GemmStart<T> biases = {bias, plan.bias_row_stride, plan.bias_col_stride};
  parallel_ranges(
      plan.batch.size * parts, parts > 1 ? 1 : max(grain / max(m * n * k * plan.sum.size, 1), 1),
      [&](int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) {
          const int64_t matrix = index / parts, part = index % parts, part_k = part % parts_k;
          const int64_t i = part / parts_k / parts_n * size.m, p = part_k * size.k;
          const int64_t j = part / parts_k % parts_n * size.n;
          const int64_t rows = min(size.m, m - i), cols = min(size.n, n - j);
          T* out = (parts_k > 1 ? partial.data() + (matrix * parts_k + part_k) * m * n
                                : c + matrix * m * n) +
                   i * n + j;
          GemmStart<T> start = part_k == 0 ? biases.at(i, j) : GemmStart<T>{};
          int64_t a_batch, b_batch;
          plan.batch.offsets(matrix, &a_batch, &b_batch);
          for (int64_t s = 0; s < plan.sum.size; ++s) {
            int64_t a_sum, b_sum;
            plan.sum.offsets(s, &a_sum, &b_sum);
            const Matrix<T> left = {a + a_batch + a_sum, plan.a_row_stride, plan.a_col_stride};
            const Matrix<T> right = {b + b_batch + b_sum, plan.b_row_stride, plan.b_col_stride};
            block(out, n, rows, cols, min(size.k, k - p),
                  Matrix<T>{left.at(i, p), left.row_stride, left.col_stride},
                  Matrix<T>{right.at(p, j), right.row_stride, right.col_stride}, start);
            start = {out, n, 1};
          }
        }
      });
  if (parts_k == 1) return;
  parallel_ranges(plan.batch.size * m * n, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end;) {
      const int64_t matrix = at / (m * n), stop = min(end, (matrix + 1) * m * n);
      const T* first = partial.data() + matrix * parts_k * m * n + (at - matrix * m * n);
      for_each_vec<T>(stop - at, [&](int64_t i, int lanes) {
        Vec<T> sum = load(first + i, lanes);
        for (int64_t part = 1; part < parts_k; ++part) {
          sum += load(first + part * m * n + i, lanes);
        }
        store(c + at + i, sum, lanes);
      });
      at = stop;
    }
  });
}

// Blocks of 256 rows, enough to make up for packing B, and the columns core/gemm.h packs at once;
// halved where they are few and large.
template <typename T>
Blocks gemm_blocks(const GemmPlan& plan) {
  using Tile = GemmTile<T>;
  Blocks size = {equal_parts(plan.m, 256, Tile::rows), gemm_cols<T>(plan.n), max(plan.k, 1)};
  const auto count = [&] {
    return plan.batch.size * ceil_div(plan.m, size.m) * ceil_div(plan.n, size.n);
  };
  while (count() < kMinBlocks && terms(plan) / count() > 2 * kGemmGrain) {
    if (size.m >= size.n && size.m > 8 * Tile::rows) {
      size.m = part_size(size.m, 2, Tile::rows);
    } else if (size.n > 2 * Tile::cols) {
      size.n = part_size(size.n, 2, Tile::cols);
    } else {
      break;
    }
  }
  size.k = part_size(plan.k, parts_of_k(terms(plan), count(), plan.k, kGemmGrain), 16);
  return size;
}

template <typename T>
void gemm(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan) {
  for_each_block(c, a, b, bias, plan, gemm_blocks<T>(plan), kGemmGrain,
                 [](T* c, int64_t ldc, int64_t m, int64_t n, int64_t k, Matrix<T> a, Matrix<T> b,
                    GemmStart<T> start) {
                   const Workspace<T> scratch(gemm_scratch<T>(n, k));
                   gemm_block(c, ldc, m, n, k, PackRows<T>{a}, PackCols<T>{b}, start,
                              scratch.data());
                 });
}

template <typename T>
Blocks gemv_blocks(const GemmPlan& plan, int64_t rows) {
  const int64_t blocks = plan.batch.size * ceil_div(plan.m, rows);
  const int64_t parts = parts_of_k(terms(plan), blocks, plan.k, kGemvGrain);
  return {rows, 1, part_size(plan.k, parts, 64)};
}

// y[i] = start + sum_p A[i, p] b[p] for Rows rows; 512 terms at most in the lanes, then in double.
template <int Rows, typename T>
FASTDL_INLINE void dot_rows(T* y, int64_t k, Matrix<T> a, const T* b, GemmStart<T> start) {
  double total[Rows];
  for (int r = 0; r < Rows; ++r) total[r] = start.data ? *start.at(r, 0).data : 0;
  for (int64_t begin = 0; begin < k; begin += 512) {
    Vec<T> sum[Rows];
    for (int r = 0; r < Rows; ++r) sum[r] = zero<T>();
    for_each_vec<T>(min(k - begin, 512), [&](int64_t p, int lanes) {
      const Vec<T> factor = load(b + begin + p, lanes);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sum[r] = fma(load(a.at(r, begin + p), lanes), factor, sum[r]);
    });
    for (int r = 0; r < Rows; ++r) total[r] += static_cast<double>(reduce_add(sum[r]));
  }
  for (int r = 0; r < Rows; ++r) y[r] = static_cast<T>(total[r]);
}

template <typename T>
void gemv_rows(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan) {
  for_each_block(c, a, b, bias, plan,
                 gemv_blocks<T>(plan, round_up(kGemvGrain / max(plan.k, 1) + 1, 4)), kGemvGrain,
                 [](T* y, int64_t, int64_t m, int64_t, int64_t k, Matrix<T> a, Matrix<T> b,
                    GemmStart<T> start) {
                   int64_t i = 0;
                   for (; i + 4 <= m; i += 4) {
                     dot_rows<4>(y + i, k, {a.at(i, 0), a.row_stride, 1}, b.data, start.at(i, 0));
                   }
                   for (; i < m; ++i) {
                     dot_rows<1>(y + i, k, {a.at(i, 0), a.row_stride, 1}, b.data, start.at(i, 0));
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
void gemv_columns(T* c, const T* a, const T* b, const T* bias, const GemmPlan& plan) {
  for_each_block(c, a, b, bias, plan, gemv_blocks<T>(plan, kMaxColumn), kGemvGrain,
                 [](T* y, int64_t, int64_t m, int64_t, int64_t k, Matrix<T> a, Matrix<T> b,
                    GemmStart<T> start) {
                   T sum[kMaxColumn];
                   for (int64_t i = 0; i < m; ++i) y[i] = start.data ? *start.at(i, 0).data : T(0);
                   for (int64_t begin = 0; begin < k; begin += 256) {
                     memset(sum, 0, static_cast<size_t>(m) * sizeof(T));
                     const int64_t end = min(k, begin + 256);
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

FASTDL_DEFINE_KERNELS(MatmulKernels, matmul_kernels, gemm<T>, gemv_rows<T>, gemv_columns<T>)

}  // namespace fastdl::FASTDL_ISA
