// C = activation(bias + A B + residual) over batches on AMX's tiles, by threads: C is cut into
// blocks, and where those are few, the sum over k as well; its parts are then added in order. All
// cuts follow from the sizes alone. A block's sums stay in L2 until they are whole, then go to C in
// one walk.
#include "kernels/matmul_tiles.h"

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/tile_gemm.h"
#include "core/transposed.h"
#include "core/vec_math.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kMinBlocks = 8;      // keep some threads busy
constexpr int64_t kGrain = 2'000'000;  // multiplications
constexpr int64_t kMaxRows = 512;
constexpr int64_t kMaxTerms =
    1024;  // of a sum; the sums of more are added up, so that they err less

// The size of a block of C, and of the part of k it takes at a time.
struct Blocks {
  int64_t m, n, k;

  explicit Blocks(const GemmPlan& plan)
      : m(part(plan.m, ceil_div(plan.m, kMaxRows), kStripLines)),
        n(part(plan.n, ceil_div(plan.n, kMaxTileColumns), kStripLines)),
        k(larger(plan.k, 1)) {
    const int64_t matrices = plan.batch.size, depth = larger(plan.k, 1) * plan.sum.size;
    const auto count = [&] { return matrices * ceil_div(plan.m, m) * ceil_div(plan.n, n); };
    while (count() < kMinBlocks && m * n * depth > 2 * kGrain && larger(m, n) > 4 * kStripLines) {
      int64_t& longer = m > n ? m : n;
      longer = part(longer, 2, kStripLines);
    }
    const int64_t parts = smaller(kMinBlocks / count(), m * n * depth / kGrain / 2);
    k = part(plan.k, larger(1, smaller(parts, plan.k / (kMaxTerms / 2))), kStepTerms);
  }

 private:
  // n cut into `parts` equal parts, multiples of step.
  static int64_t part(int64_t n, int64_t parts, int64_t step) {
    return larger(round_up(ceil_div(n, parts), step), step);
  }
};

// The many small pages of memory that is read again and again do not leave enough of the TLB.
FASTDL_INLINE int64_t in_huge_page(int64_t bytes) {
  constexpr int64_t page = int64_t{2} << 20;
  return bytes > page / 8 ? larger(bytes, page) : bytes;
}

// Lines of a matrix in memory.
template <typename E>
struct MatrixLines {
  Strided<E> matrix;

  FASTDL_INLINE Strided<E> operator()(int64_t line, int, int64_t p, int64_t) const {
    return {matrix.data + line * matrix.row_stride + p * matrix.col_stride, matrix.row_stride,
            matrix.col_stride};
  }
};

// What is done to sums on their way to C.
template <typename E>
struct Finish {
  const GemmPlan& plan;
  E* c;
  const E* bias;
  const E* residual;
  Activation activation;

  // The sums of rows i.. and columns j.. of a matrix, to that of C that begins at `offset`.
  void operator()(const float* sums, int64_t ld, int64_t offset, int64_t i, int64_t j, int64_t m,
                  int64_t n) const {
    switch (activation) {
      case Activation::none:
        return run(sums, ld, offset, i, j, m, n, [](Vec<float> v) { return v; });
      case Activation::relu:
        return run(sums, ld, offset, i, j, m, n, [](Vec<float> v) { return relu(v); });
      case Activation::gelu:
        return run(sums, ld, offset, i, j, m, n, [](Vec<float> v) { return gelu(v); });
      case Activation::gelu_tanh:
        return run(sums, ld, offset, i, j, m, n, [](Vec<float> v) { return gelu_tanh(v); });
    }
  }

 private:
  template <typename F>
  void run(const float* sums, int64_t ld, int64_t offset, int64_t i, int64_t j, int64_t m,
           int64_t n, F f) const {
    const int64_t rows = plan.bias_row_stride, cols = plan.bias_col_stride;
    const E* const first = bias ? bias + i * rows + j * cols : nullptr;
    offset += i * plan.c_row_stride + j * plan.c_col_stride;
    // count values of a line of C, whose bias is `at` for all or, with a step of 1, one for each
    const auto finish = [&](int64_t to, Vec<float> v, const E* at, int64_t step, int count) {
      if (at) v += step ? load(at, count) : broadcast(reduce_add(load(at, 1)));
      if (residual) v += load(residual + to, count);
      store(c + to, f(v), count);
    };
    if (plan.c_col_stride == 1) {
      for (int64_t r = 0; r < m; ++r) {
        const E* const of_row = first ? first + r * rows : nullptr;
        for_each_vec<float>(n, [&](int64_t s, int count) {
          finish(offset + r * plan.c_row_stride + s, load(sums + r * ld + s),
                 of_row ? of_row + s * cols : nullptr, cols, count);
        });
      }
      return;
    }
    for (int64_t s = 0; s < n; s += Vec<float>::lanes) {
      const int64_t columns = smaller(Vec<float>::lanes, n - s);
      for_each_transposed(sums + s, ld, m, [&](int64_t r, int count, const Vec<float>* v) {
        for (int64_t t = 0; t < columns; ++t) {
          finish(offset + r + (s + t) * plan.c_col_stride, v[t],
                 first ? first + r * rows + (s + t) * cols : nullptr, rows, count);
        }
      });
    }
  }
};

void add_sums(float* to, const float* from, int64_t ld, int64_t rows, int64_t cols) {
  for (int64_t i = 0; i < rows; ++i) {
    for_each_vec<float>(cols, [=](int64_t j, int) {
      store(to + i * ld + j, load(to + i * ld + j) + load(from + i * ld + j));
    });
  }
}

template <typename E>
void gemm(E* c, const E* a, const E* b, const E* bias, const GemmPlan& plan, Activation activation,
          const E* residual) {
  const Blocks size(plan);
  const int64_t m = plan.m, n = plan.n, k = plan.k;
  const int64_t parts_m = ceil_div(m, size.m), parts_n = ceil_div(n, size.n);
  const int64_t parts_k = larger(ceil_div(k, size.k), 1), parts = parts_m * parts_n * parts_k;
  const int64_t block = size.m * size.n;
  const Workspace<float> partial(parts_k > 1 ? plan.batch.size * parts * block : 0);
  const Finish<E> finish{plan, c, bias, residual, activation};
  const int64_t work = larger(m * n * larger(k, 1) * plan.sum.size / parts, 1);
  parallel_ranges(plan.batch.size * parts, kGrain / work + 1, [&](int64_t begin, int64_t end) {
    // A block's sums, those of its next terms, and what is laid out for the tiles.
    const int64_t sums_bytes = block * int64_t{sizeof(float)};
    const Workspace<char> memory(in_huge_page(2 * sums_bytes + tile_scratch<E>(size.n, size.k)));
    auto *const own = reinterpret_cast<float*>(memory.data()), *const more = own + block;
    char* const scratch = memory.data() + 2 * sums_bytes;
    const Tiles tiles;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t matrix = index / parts, part = index % parts, part_k = part % parts_k;
      const int64_t i = part / parts_k / parts_n * size.m, p = part_k * size.k;
      const int64_t j = part / parts_k % parts_n * size.n;
      const int64_t rows = smaller(size.m, m - i), cols = smaller(size.n, n - j);
      float* const sums = parts_k > 1 ? partial.data() + index * block : own;
      int64_t a_batch, b_batch;
      plan.batch.offsets(matrix, &a_batch, &b_batch);
      for (int64_t s = 0; s < plan.sum.size; ++s) {
        int64_t a_sum, b_sum;
        plan.sum.offsets(s, &a_sum, &b_sum);
        const E* const left = a + a_batch + a_sum + i * plan.a_row_stride + p * plan.a_col_stride;
        const E* const right = b + b_batch + b_sum + p * plan.b_row_stride + j * plan.b_col_stride;
        for (int64_t q = 0; q == 0 || q < smaller(size.k, k - p); q += kMaxTerms) {
          const bool first = s == 0 && q == 0;
          float* const to = first ? sums : more;
          multiply_in_tiles<E>(
              to, size.n, rows, cols, smaller(kMaxTerms, smaller(size.k, k - p) - q),
              MatrixLines<E>{{left + q * plan.a_col_stride, plan.a_row_stride, plan.a_col_stride}},
              MatrixLines<E>{{right + q * plan.b_row_stride, plan.b_col_stride, plan.b_row_stride}},
              scratch);
          if (!first) add_sums(sums, to, size.n, rows, cols);
        }
      }
      if (parts_k == 1) finish(sums, size.n, matrix * m * n, i, j, rows, cols);
    }
  });
  if (parts_k == 1) return;
  parallel_for(plan.batch.size * parts_m * parts_n, [&](int64_t index) {
    float* const sums = partial.data() + index * parts_k * block;
    const int64_t matrix = index / (parts_m * parts_n), part = index % (parts_m * parts_n);
    const int64_t i = part / parts_n * size.m, j = part % parts_n * size.n;
    const int64_t rows = smaller(size.m, m - i), cols = smaller(size.n, n - j);
    for (int64_t p = 1; p < parts_k; ++p) add_sums(sums, sums + p * block, size.n, rows, cols);
    finish(sums, size.n, matrix * m * n, i, j, rows, cols);
  });
}

}  // namespace

FASTDL_DEFINE_TILE_KERNELS(MatmulTilesKernels, matmul_tiles_kernels, gemm<T>)

}  // namespace fastdl::FASTDL_ISA
