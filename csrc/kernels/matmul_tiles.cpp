// C = activation(bias + A B + residual) over batches on AMX's tiles. Some rows of A are split by
// all threads; then C is cut into blocks of them, and where those are few, the sums as well, whose
// parts are then added in order. All cuts follow from the sizes alone. A block's sums stay in L2
// until they are whole, then go to C in one walk.
#include "kernels/matmul_tiles.h"

#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/tile_gemm.h"
#include "core/transposed.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kMinBlocks = 8;         // keep some threads busy
constexpr int64_t kGrain = 2'000'000;     // multiplications
constexpr int64_t kMaxSums = 256 * 1024;  // of a block: 1 MB
constexpr int64_t kMaxRows = 1024;
constexpr int64_t kMaxSplit = int64_t{4} << 20;  // elements of A at a time: 24 MB of float
// Of a sum; those of more are added up, so that they err less.
template <typename E>
constexpr int64_t kMaxTerms = 8 * kTileDepth<E>;

// n cut into `parts` equal parts, multiples of step.
FASTDL_INLINE int64_t part_size(int64_t n, int64_t parts, int64_t step) {
  return larger(round_up(ceil_div(n, parts), step), step);
}

// The matrices, and of each the rows, that are multiplied at a time.
struct Share {
  int64_t matrices, rows;

  Share(const GemmPlan& plan, bool shared_a) {
    const int64_t terms = larger(plan.k * plan.sum.size, 1);
    const int64_t most = larger(kMaxSplit / terms, 4 * kStripLines);
    rows = part_size(plan.m, ceil_div(plan.m, most), kStripLines);
    matrices = shared_a        ? plan.batch.size
               : rows < plan.m ? 1
                               : smaller(larger(most / plan.m, 1), plan.batch.size);
  }
};

// The size of a block of C, and of the part of the sums it takes at a time: some of the products
// that are summed, or if that is one, some of its terms.
struct Blocks {
  int64_t m, n, products, k;

  Blocks(const GemmPlan& plan, const Share& share, int64_t depth)
      : m(part_size(share.rows, ceil_div(share.rows, kMaxRows), kStripLines)),
        products(plan.sum.size),
        k(larger(plan.k, 1)) {
    const int64_t most = smaller(kMaxTileColumns, kMaxSums / m / kStripLines * kStripLines);
    n = part_size(plan.n, ceil_div(plan.n, most), kStripLines);
    const int64_t terms = k * products;
    const auto count = [&] {
      return share.matrices * ceil_div(share.rows, m) * ceil_div(plan.n, n);
    };
    while (count() < kMinBlocks && m * n * terms > 2 * kGrain && larger(m, n) > 4 * kStripLines) {
      int64_t& longer = m > n ? m : n;
      longer = part_size(longer, 2, kStripLines);
    }
    const int64_t parts = smaller(kMinBlocks / count(), m * n * terms / kGrain / 2);
    if (parts < 2) return;
    if (products > 1) {
      products = ceil_div(products, parts);
    } else {
      k = part_size(k, smaller(parts, larger(k / (4 * depth), 1)), depth);
    }
  }
};

// Rows of A, or columns of B as rows of its transpose, where they lie.
template <typename E>
struct MatrixLines {
  Strided<E> matrix;

  FASTDL_INLINE Strided<E> operator()(int64_t i, int, int64_t p, int64_t) const {
    return {matrix.data + i * matrix.row_stride + p * matrix.col_stride, matrix.row_stride,
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

  // The sums of rows i.. and columns j.. of a matrix of C.
  void operator()(const float* sums, int64_t ld, int64_t matrix, int64_t i, int64_t j, int64_t m,
                  int64_t n) const {
    const int64_t offset = matrix * plan.m * plan.n;
    with_activation<float>(activation, [&](auto f) { run(sums, ld, offset, i, j, m, n, f); });
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

// Some rows of some matrices of A, products that are summed counted as matrices, in strips that all
// blocks of columns use, if there are some.
template <typename E>
class SplitA {
 public:
  SplitA(const GemmPlan& plan, const Share& share, bool shared)
      : plan_(plan),
        shared_(shared),
        before_(plan.n > kMaxTileColumns),
        count_(ceil_div(share.rows, kStripLines)),
        bytes_(strip_bytes<E>(tile_depth<E>(plan.k))),
        strips_(SplitRows<E>::strips(share.rows, plan.k)),
        data_(before_ * (shared ? 1 : share.matrices) * plan.sum.size * strips_ * bytes_) {}

  // Or else blocks split what they multiply, some of them the same.
  bool before() const { return before_; }

  void split(const E* a, int64_t first, int64_t matrices, int64_t row, int64_t rows) {
    a_ = a + row * plan_.a_row_stride;
    first_ = first;
    if (!before_) return;
    const int64_t all = (shared_ ? 1 : matrices) * plan_.sum.size,
                  strips = ceil_div(rows, kStripLines);
    parallel_ranges(
        all * strips, 32'768 / (kStripLines * larger(plan_.k, 1)) + 1,
        [&](int64_t begin, int64_t end) {
          for (int64_t index = begin; index < end; ++index) {
            const int64_t i = index % strips * kStripLines, matrix = index / strips;
            const auto lines = static_cast<int>(smaller(kStripLines, rows - i));
            of(first + matrix / plan_.sum.size, matrix % plan_.sum.size).split(i, lines, plan_.k);
          }
        });
  }
  SplitRows<E> of(int64_t matrix, int64_t product) const {
    int64_t a_batch, a_sum, b;
    plan_.batch.offsets(matrix, &a_batch, &b);
    plan_.sum.offsets(product, &a_sum, &b);
    const int64_t at = ((shared_ ? 0 : matrix - first_) * plan_.sum.size + product) * strips_;
    return {{a_ + a_batch + a_sum, plan_.a_row_stride, plan_.a_col_stride},
            data_.data() + at * bytes_,
            count_,
            bytes_};
  }

 private:
  const GemmPlan& plan_;
  bool shared_;  // by all matrices of C
  bool before_;
  int64_t count_, bytes_, strips_;
  Workspace<char> data_;
  const E* a_ = nullptr;
  int64_t first_ = 0;
};

// C of `matrices` matrices from `first` on, their rows from `row` on.
template <typename E>
void multiply_share(const SplitA<E>& a, const E* b, const GemmPlan& plan, const Blocks& size,
                    const Finish<E>& finish, int64_t first, int64_t matrices, int64_t row,
                    int64_t share_rows) {
  const int64_t n = plan.n, k = larger(plan.k, 1);
  const int64_t parts_m = ceil_div(share_rows, size.m), parts_n = ceil_div(n, size.n);
  const int64_t cuts = ceil_div(k, size.k), parts_k = ceil_div(plan.sum.size, size.products) * cuts;
  const int64_t parts = parts_m * parts_n * parts_k, block = size.m * size.n;
  const Workspace<float> partial(parts_k > 1 ? matrices * parts * block : 0);
  const int64_t work = larger(share_rows * n * k * plan.sum.size / parts, 1);
  parallel_ranges(matrices * parts, kGrain / work + 1, [&](int64_t begin, int64_t end) {
    // A block's sums, those of its next terms, and what is laid out for the tiles.
    const int64_t sums_bytes = block * int64_t{sizeof(float)};
    const Workspace<char> memory(in_huge_page(2 * sums_bytes + tile_scratch<E>(size.n, size.k)));
    auto *const own = reinterpret_cast<float*>(memory.data()), *const more = own + block;
    char* const scratch = memory.data() + 2 * sums_bytes;
    const Tiles tiles;
    for (int64_t index = begin; index < end; ++index) {
      const int64_t matrix = first + index / parts, part = index % parts, part_k = part % parts_k;
      const int64_t i = part / parts_k / parts_n * size.m, p = part_k % cuts * size.k;
      const int64_t j = part / parts_k % parts_n * size.n;
      const int64_t rows = smaller(size.m, share_rows - i), cols = smaller(size.n, n - j);
      const int64_t terms = smaller(size.k, plan.k - p), s0 = part_k / cuts * size.products;
      float* const sums = parts_k > 1 ? partial.data() + index * block : own;
      int64_t a_batch, b_batch;
      plan.batch.offsets(matrix, &a_batch, &b_batch);
      for (int64_t s = s0; s < smaller(s0 + size.products, plan.sum.size); ++s) {
        int64_t a_sum, b_sum;
        plan.sum.offsets(s, &a_sum, &b_sum);
        const SplitRows<E> left = a.of(matrix, s);
        const E* const right = b + b_batch + b_sum + p * plan.b_row_stride + j * plan.b_col_stride;
        for (int64_t q = 0; q == 0 || q < terms; q += kMaxTerms<E>) {
          const bool start = s == s0 && q == 0;
          float* const to = start ? sums : more;
          const auto multiply = [&](auto&& rows_of_a) {
            multiply_in_tiles<E>(to, size.n, rows, cols, smaller(kMaxTerms<E>, terms - q),
                                 rows_of_a,
                                 MatrixLines<E>{{right + q * plan.b_row_stride, plan.b_col_stride,
                                                 plan.b_row_stride}},
                                 scratch);
          };
          if (a.before()) {
            multiply(left.from(i, p + q));
          } else {
            multiply(MatrixLines<E>{left(i, 0, p + q, 0)});
          }
          if (!start) add_sums(sums, to, size.n, rows, cols);
        }
      }
      if (parts_k == 1) finish(sums, size.n, matrix, row + i, j, rows, cols);
    }
  });
  if (parts_k == 1) return;
  parallel_for(matrices * parts_m * parts_n, [&](int64_t index) {
    float* const sums = partial.data() + index * parts_k * block;
    const int64_t part = index % (parts_m * parts_n);
    const int64_t i = part / parts_n * size.m, j = part % parts_n * size.n;
    const int64_t rows = smaller(size.m, share_rows - i), cols = smaller(size.n, n - j);
    for (int64_t p = 1; p < parts_k; ++p) add_sums(sums, sums + p * block, size.n, rows, cols);
    finish(sums, size.n, first + index / (parts_m * parts_n), row + i, j, rows, cols);
  });
}

template <typename E>
void gemm(E* c, const E* a, const E* b, const E* bias, const GemmPlan& plan, Activation activation,
          const E* residual) {
  bool shared = true;
  for (int i = 0; i < plan.batch.count; ++i) shared &= plan.batch.loops[i].a_stride == 0;
  const Share share(plan, shared);
  const Blocks size(plan, share, kTileDepth<E>);
  const Finish<E> finish{plan, c, bias, residual, activation};
  SplitA<E> split(plan, share, shared);
  for (int64_t first = 0; first < plan.batch.size; first += share.matrices) {
    const int64_t matrices = smaller(share.matrices, plan.batch.size - first);
    for (int64_t row = 0; row < plan.m; row += share.rows) {
      const int64_t rows = smaller(share.rows, plan.m - row);
      split.split(a, first, matrices, row, rows);
      multiply_share(split, b, plan, size, finish, first, matrices, row, rows);
    }
  }
}

}  // namespace

FASTDL_DEFINE_TILE_KERNELS(MatmulTilesKernels, matmul_tiles_kernels, gemm<T>)

}  // namespace fastdl::FASTDL_ISA
