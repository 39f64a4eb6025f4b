// Matrix products of any strides, with batches and sums over batches (core/gemm_plan.h). Bound by
// the arithmetic from some 100 rows and columns on.
#include "cuda/matmul.h"

#include "cuda/divider.h"
#include "cuda/epilogue.h"
#include "cuda/mma_gemm.h"

namespace fastdl::cuda {
namespace {

// The strides of one factor over the loops of a plan; the last runs fastest.
constexpr int kMaxLoops = 16;

struct Loops {
  Divider sizes[kMaxLoops];
  int64_t strides[kMaxLoops];
  int count;

  __device__ int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int i = count - 1; i >= 0; --i) at += sizes[i].split(index) * strides[i];
    return at;
  }
  bool divisible(int64_t by) const {
    return std::all_of(strides, strides + count, [=](int64_t stride) { return stride % by == 0; });
  }
};

Divider divider(int64_t size) {
  fastdl::check(size <= INT32_MAX, "matmul", "a size of ", size, " is too large for a GPU");
  return Divider(std::max<int64_t>(size, 1));
}

template <typename Stride>
Loops loops_of(const GemmLoops& from, Stride stride) {
  fastdl::check(from.count <= kMaxLoops, "matmul", "more than ", kMaxLoops,
                " dimensions of batches that do not merge, on a GPU");
  Loops loops = {};
  loops.count = from.count;
  for (int i = 0; i < from.count; ++i) {
    loops.sizes[i] = divider(from.loops[i].size);
    loops.strides[i] = from.loops[i].*stride;
  }
  return loops;
}

template <typename T>
struct Matrix {
  using Element = T;
  using Line = const T*;
  using Term = int64_t;
  static constexpr bool kPacksTerms = true, kPacksLines = true;
  const T* data;
  int64_t line_stride, k_stride, k;  // k: terms of one matrix of the sum
  Loops batch, sum;
  bool along_k;
  Divider matrix_terms = sum.count == 0 ? Divider() : divider(k);

  __device__ Line line(int64_t problem, int64_t i) const {
    return data + batch.offset(problem) + i * line_stride;
  }
  __device__ Term term(int64_t at) const {
    if (sum.count == 0) return at * k_stride;
    const int64_t within = matrix_terms.split(at);
    return sum.offset(at) + within * k_stride;
  }
  __device__ T get(Line line, Term term) const { return line[term]; }
  __device__ const T* pack(Line line, Term term) const { return line + term; }
  __device__ const T* any() const { return data; }

  bool packs(int64_t lines, int64_t terms) const {
    const int64_t across = along_k ? k_stride : line_stride,
                  down = along_k ? line_stride : k_stride;
    const int64_t size = along_k ? k : lines;
    constexpr int kPack = kPackSize<T>;
    return terms > 0 && across == 1 && size % kPack == 0 && down % kPack == 0 &&
           batch.divisible(kPack) && sum.divisible(kPack) && is_aligned(data);
  }
};

template <typename T>
struct MatrixResult {
  Finish<T> finish;
  int64_t matrix, row_stride, col_stride, bias_row_stride, bias_col_stride;
  bool packs = col_stride == 1 && row_stride % 8 == 0 && matrix % 8 == 0 && finish.aligned();

  __device__ void put(int64_t problem, int64_t row, int64_t col, Compute<T> sum) const {
    finish.put(at(problem, row, col), bias_at(row, col), sum);
  }
  template <int N>
  __device__ void put_pack(int64_t problem, int64_t row, int64_t col,
                           const Compute<T> (&sums)[N]) const {
    finish.put_pack(at(problem, row, col), bias_at(row, col), bias_col_stride, sums);
  }

 private:
  __device__ int64_t at(int64_t problem, int64_t row, int64_t col) const {
    return problem * matrix + row * row_stride + col * col_stride;
  }
  __device__ int64_t bias_at(int64_t row, int64_t col) const {
    return row * bias_row_stride + col * bias_col_stride;
  }
};

}  // namespace

void Matmul::gemm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
                  const GemmPlan& plan, Activation activation, const Tensor* residual) const {
  dispatch(out.dtype, [&]<typename T>() {
    const GemmPlan& p = plan;
    const Matrix<T> left{a.ptr<T>(),
                         p.a_row_stride,
                         p.a_col_stride,
                         p.k,
                         loops_of(p.batch, &GemmLoop::a_stride),
                         loops_of(p.sum, &GemmLoop::a_stride),
                         p.a_col_stride == 1};
    const Matrix<T> right{b.ptr<T>(),
                          p.b_col_stride,
                          p.b_row_stride,
                          p.k,
                          loops_of(p.batch, &GemmLoop::b_stride),
                          loops_of(p.sum, &GemmLoop::b_stride),
                          p.b_row_stride == 1};
    const MatrixResult<T> result{
        {out.ptr<T>(), ptr_or_null<T>(bias), ptr_or_null<T>(residual), activation},
        p.m * p.n,
        p.c_row_stride,
        p.c_col_stride,
        p.bias_row_stride,
        p.bias_col_stride};
    cuda::gemm(device, left, right, result,
               {.m = p.m, .n = p.n, .k = p.k * p.sum.size, .problems = p.batch.size});
  });
}

}  // namespace fastdl::cuda
