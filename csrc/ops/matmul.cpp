#include "ops/matmul.h"

#include <utility>

#include "core/buffer_pool.h"
#include "core/device.h"
#include "core/trace.h"
#include "cuda/matmul.h"
#include "kernels/matmul.h"
#include "kernels/matmul_tiles.h"
#include "ops/convert.h"
#include "ops/worth_tiles.h"

namespace fastdl::ops {
namespace {

// Dimension i, from the end, of the batch of a matrix product; 1 where the tensor has none.
int64_t batch_size(const Tensor& x, int i) {
  return i < x.ndim() - 2 ? x.shape[x.ndim() - 3 - i] : 1;
}

// The sizes of y = x @ other; a 1-D x is a row, a 1-D other a column.
struct Sizes {
  int64_t m, n, k;
  Shape batch, y;
};

Sizes sizes_of(const char* op, const Tensor& x, const Tensor& other) {
  check_same_dtype(op, "x", x, "other", other);
  check(x.ndim() > 0 && other.ndim() > 0, op, "x and other must have at least 1 dimension, got ",
        x.ndim(), " and ", other.ndim());
  Sizes s;
  s.m = x.ndim() > 1 ? x.shape[x.ndim() - 2] : 1;
  s.n = other.ndim() > 1 ? other.shape[other.ndim() - 1] : 1;
  s.k = x.shape[x.ndim() - 1];
  const int64_t rows = other.shape[std::max(other.ndim() - 2, 0)];
  check(s.k == rows, op, "x has rows of ", s.k, ", other has columns of ", rows, ": shapes ",
        x.shape, " and ", other.shape);
  int64_t matrices = 1;
  for (int i = std::max(x.ndim(), other.ndim()) - 3; i >= 0; --i) {
    const int64_t a = batch_size(x, i), b = batch_size(other, i);
    check(a == b || a == 1 || b == 1, op, "the batches of x ", x.shape, " and other ", other.shape,
          " do not broadcast");
    s.batch.push_back(a == 1 ? b : a);
    matrices = checked_multiply(op, matrices, s.batch[s.batch.ndim() - 1]);
  }
  s.y = s.batch;
  if (x.ndim() > 1) s.y.push_back(s.m);
  if (other.ndim() > 1) s.y.push_back(s.n);
  return s;
}

// Appends a loop; one that continues the steps of the last is merged with it.
void add_loop(GemmLoops& loops, GemmLoop loop) {
  loops.size *= loop.size;
  if (loop.size == 1) return;
  if (loops.count > 0) {
    GemmLoop& last = loops.loops[loops.count - 1];
    if (last.a_stride == loop.size * loop.a_stride && last.b_stride == loop.size * loop.b_stride) {
      last = {last.size * loop.size, loop.a_stride, loop.b_stride};
      return;
    }
  }
  loops.loops[loops.count++] = loop;
}

// The elements from one matrix of x to the next along each dimension of the batch; 0 to broadcast.
Shape batch_strides(const Tensor& x, const Shape& batch) {
  const int ndim = batch.ndim();
  Shape strides = batch;
  int64_t stride = x.shape.numel(std::max(x.ndim() - 2, 0), x.ndim());
  for (int i = 0; i < ndim; ++i) {
    const int64_t size = batch_size(x, i);
    strides[ndim - 1 - i] = size == 1 ? 0 : stride;
    stride *= size;
  }
  return strides;
}

// Batches that are nothing but more rows of A, or more terms of the sum over k, become that.
void fold(GemmPlan& plan) {
  if (plan.batch.count > 0) {
    const GemmLoop& loop = plan.batch.loops[plan.batch.count - 1];
    if (loop.b_stride == 0 && loop.a_stride == plan.m * plan.a_row_stride) {
      plan.m *= loop.size;
      plan.batch.size /= loop.size;
      --plan.batch.count;
    }
  }
  if (plan.sum.size == 0) {
    plan.k = 0;
    plan.sum = {};
  } else if (plan.sum.count > 0) {
    const GemmLoop& loop = plan.sum.loops[plan.sum.count - 1];
    if (loop.a_stride == plan.k * plan.a_col_stride &&
        loop.b_stride == plan.k * plan.b_row_stride) {
      plan.k *= loop.size;
      plan.sum.size /= loop.size;
      --plan.sum.count;
    }
  }
}

// C^T = B^T A^T.
void transpose(GemmPlan& plan) {
  std::swap(plan.m, plan.n);
  std::swap(plan.a_row_stride, plan.b_col_stride);
  std::swap(plan.a_col_stride, plan.b_row_stride);
  std::swap(plan.c_row_stride, plan.c_col_stride);
  std::swap(plan.bias_row_stride, plan.bias_col_stride);
  for (GemmLoops* loops : {&plan.batch, &plan.sum}) {
    for (int i = 0; i < loops->count; ++i) {
      std::swap(loops->loops[i].a_stride, loops->loops[i].b_stride);
    }
  }
}

// With fewer terms per column, dot products spend more on adding up their lanes than the tiles of
// gemm on packing: at n = 8 and 64 terms 1.5 times as long, at 768 terms 0.6 times.
constexpr int64_t kMinDotTerms = 32;

// A few rows x of a product x W^T are packed in place of W, which is read once, as it lies. Then
// the lanes run along x: 16 rows of 4096 to 4096 take 1.7 instead of 3.1 ms, 48 rows 3.6 instead
// of 5.2.
constexpr int64_t kMaxFewRows = 64, kFewRowsRatio = 16;

template <typename T>
void run_floats(T* out, const T* a, const T* b, const T* packed, const T* bias, GemmPlan& plan,
                const Epilogue<T>& epilogue) {
  if (plan.batch.size == 0 || plan.m == 0 || plan.n == 0) return;
  fold(plan);
  const MatmulKernels<T>& kernels = matmul_kernels<T>();
  const bool in_lines =  // both factors lie along k
      plan.k == 1 || (plan.a_col_stride == 1 && plan.b_row_stride == 1);
  const int64_t columns = std::min(plan.m, plan.n);
  const bool few = columns <= kMaxDotColumns && plan.k >= kMinDotTerms * columns;
  const bool vector = plan.m == 1 || plan.n == 1;
  if (packed && !vector) {  // also for a few rows: 8 of 768 to 768 take 0.024 ms, as dots 0.039
    last_trace.kernel = "gemm, weight packed";
    return kernels.gemm_packed(out, a, packed, bias, plan, epilogue);
  }
  if ((vector || (few && in_lines)) && plan.m < plan.n) {
    transpose(plan);
    std::swap(a, b);
  }
  if (in_lines && (vector || few)) {
    last_trace.kernel = "dots, rows times a few columns";
    return kernels.dots(out, a, b, bias, plan, epilogue);
  }
  if (vector && plan.a_row_stride == 1 && plan.b_row_stride == 1) {
    last_trace.kernel = "gemv, columns added up";
    return kernels.gemv_columns(out, a, b, bias, plan, epilogue);
  }
  if (in_lines && plan.batch.size == 1 && plan.sum.size == 1 && plan.m <= kMaxFewRows &&
      plan.n >= kFewRowsRatio * plan.m) {
    last_trace.kernel = "gemm, a few rows packed, the other matrix as it lies";
    transpose(plan);
    const Workspace<T> rows(kernels.packed_size(plan.n, plan.k));
    kernels.pack(rows.data(), a, plan);
    return kernels.gemm_packed(out, b, rows.data(), bias, plan, epilogue);
  }
  last_trace.kernel = "gemm, packed strips and register tiles";
  kernels.gemm(out, a, b, bias, plan, epilogue);
}

template <typename E>
bool run_on_tiles(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
                  const GemmPlan& given, const EpilogueOptions& epilogue) {
  constexpr int64_t kFewProducts = 100'000;
  const MatmulTilesKernels<E>* const kernels = matmul_tiles_kernels<E>();
  if (!kernels || out.numel() * given.k * given.sum.size < kFewProducts) return false;
  GemmPlan plan = given;
  fold(plan);
  if (!worth_tiles<E>(plan.m, plan.n, plan.k, 1.3)) return false;
  last_trace.kernel = "gemm, products of bfloat16 on tiles";
  kernels->gemm(out.ptr<E>(), a.ptr<E>(), b.ptr<E>(), ptr_or_null<E>(bias), plan,
                epilogue.activation, ptr_or_null<E>(epilogue.residual));
  return true;
}

// The float32 values of a 16-bit tensor; null for none.
class Widened {
 public:
  explicit Widened(const Tensor* x) : copy_(x ? x->numel() : 0), given_(x) {
    if (x) widen(copy_.data(), *x);
  }
  const float* data() const { return given_ ? copy_.data() : nullptr; }

 private:
  Workspace<float> copy_;
  bool given_;
};

// A factor of a product as pairs of neighbours along k: where it lies, if they are neighbours
// there.
class Pairs {
 public:
  // x holds matrices (across, k), or (k, across) if k runs down the columns.
  Pairs(const Tensor& x, int64_t across, int64_t k, bool down)
      : in_place_(!down && k % 2 == 0),
        x_(x),
        pairs_(in_place_ || k == 0 ? 0 : x.numel() / k * ((k + 1) / 2)) {
    if (in_place_ || x.numel() == 0) return;
    auto* to = reinterpret_cast<uint32_t*>(pairs_.data());
    const MatmulKernels<float>& kernels = matmul_kernels<float>();
    if (down) {
      kernels.pair_in_columns(to, x.ptr<bfloat16>(), x.numel() / (across * k), k, across);
    } else {
      kernels.pair_in_rows(to, x.ptr<bfloat16>(), x.numel() / k, k);
    }
  }
  const float* data() const { return in_place_ ? x_.ptr<float>() : pairs_.data(); }

 private:
  bool in_place_;
  const Tensor& x_;
  Workspace<float> pairs_;
};

// The plan in pairs: half as many terms, rounded up. A stride is 1, or a multiple of k where k runs
// along the lines of memory.
void halve_terms(GemmPlan& plan) {
  const int64_t k = std::max(plan.k, int64_t{1}), pairs = (plan.k + 1) / 2;
  const auto halve = [&](int64_t stride) { return stride / k * pairs; };
  if (plan.a_col_stride == 1) plan.a_row_stride = halve(plan.a_row_stride);
  if (plan.b_row_stride == 1) plan.b_col_stride = halve(plan.b_col_stride);
  for (GemmLoops* loops : {&plan.batch, &plan.sum}) {
    for (int i = 0; i < loops->count; ++i) {
      loops->loops[i].a_stride = halve(loops->loops[i].a_stride);
      loops->loops[i].b_stride = halve(loops->loops[i].b_stride);
    }
  }
  plan.k = pairs;
}

void run_bfloat16(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
                  GemmPlan& plan, const EpilogueOptions& epilogue) {
  if (out.numel() == 0) return;
  const Pairs left(a, plan.m, plan.k, plan.a_col_stride != 1);
  const Pairs right(b, plan.n, plan.k, plan.b_row_stride != 1);
  const Widened biases(bias), residual(epilogue.residual);
  const Workspace<float> sums(out.numel());
  halve_terms(plan);
  fold(plan);
  last_trace.kernel = "gemm, products of bfloat16 pairs in register tiles";
  matmul_kernels<float>().gemm_pairs(sums.data(), left.data(), right.data(), biases.data(), plan,
                                     {epilogue.activation, residual.data()});
  narrow(out, sums.data());
}

void run_widened(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
                 GemmPlan& plan, const EpilogueOptions& epilogue) {
  const Widened left(&a), right(&b), biases(bias), residual(epilogue.residual);
  const Workspace<float> sums(out.numel());
  run_floats<float>(sums.data(), left.data(), right.data(), nullptr, biases.data(), plan,
                    {epilogue.activation, residual.data()});
  narrow(out, sums.data());
}

}  // namespace

bool multiplies_bfloat16() {
#if defined(__x86_64__)
  static const bool supported = __builtin_cpu_supports("avx512bf16");
  return supported && current_vector_isa() == Isa::avx512;
#else
  return false;
#endif
}

bool multiplies_float16() { return matmul_tiles_kernels<float16>() != nullptr; }

void run_gemm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
              GemmPlan& plan, const EpilogueOptions& epilogue, const Tensor* packed) {
  if (on_device([&](const Device& device) {
        const bool tf32 = device.tf32 && a.dtype == DType::float32;
        last_trace.kernel = tf32 ? "gemm, products of TF32" : "gemm, tiles in shared memory";
        cuda::Matmul{device}.gemm(out, a, b, bias, plan, epilogue.activation, epilogue.residual);
      })) {
    return;
  }
  if (a.dtype == DType::bfloat16) {
    if (run_on_tiles<bfloat16>(out, a, b, bias, plan, epilogue)) return;
    return run_bfloat16(out, a, b, bias, plan, epilogue);
  }
  if (a.dtype == DType::float16) {
    if (run_on_tiles<float16>(out, a, b, bias, plan, epilogue)) return;
    return run_widened(out, a, b, bias, plan, epilogue);
  }
  if (a.dtype == DType::float32 && run_on_tiles<float>(out, a, b, bias, plan, epilogue)) return;
  dispatch_float(a.dtype, [&]<typename T>() {
    // Every instruction set packs to a size of its own.
    const bool usable =
        packed && packed->numel() == matmul_kernels<T>().packed_size(plan.n, plan.k);
    run_floats<T>(out.ptr<T>(), a.ptr<T>(), b.ptr<T>(), usable ? packed->ptr<T>() : nullptr,
                  ptr_or_null<T>(bias), plan, epilogue.of<T>());
  });
}

void pack_factor(Output& packed, const char* op, const Tensor& b, const GemmPlan& plan) {
  if (on_device([&](const Device&) { packed.make(op, {0}, b.dtype); })) return;
  dispatch_float(b.dtype, [&]<typename T>() {
    const MatmulKernels<T>& kernels = matmul_kernels<T>();
    const int64_t size = kernels.packed_size(plan.n, plan.k);
    kernels.pack(packed.make(op, {size}, b.dtype).template ptr<T>(), b.ptr<T>(), plan);
  });
}

namespace {

// How one factor of a product lies in its tensor.
struct Factor {
  const Tensor& tensor;
  int64_t row_stride, col_stride;
  Factor transposed() const { return {tensor, col_stride, row_stride}; }
};

// out (m x n each), of the shape of `of`, = a b, summed over the batches that `of` does not have.
void product(const Tensor& out, const Tensor& of, const Sizes& s, int64_t m, int64_t n, int64_t k,
             Factor a, const Shape& a_strides, Factor b, const Shape& b_strides) {
  GemmPlan plan = {m, n, k, a.row_stride, a.col_stride, b.row_stride, b.col_stride};
  const int ndim = s.batch.ndim();
  for (int i = 0; i < ndim; ++i) {
    const bool summed = batch_size(of, ndim - 1 - i) == 1;
    add_loop(summed ? plan.sum : plan.batch, {s.batch[i], a_strides[i], b_strides[i]});
  }
  run_gemm(out, a.tensor, b.tensor, nullptr, plan);
}

void trace_products(const Sizes& s, double products, const Tensor& x, const Tensor& other) {
  const double batch = static_cast<double>(s.batch.numel());
  const double terms = batch * static_cast<double>(s.m) * static_cast<double>(s.n);
  const double elements = static_cast<double>(x.numel()) + static_cast<double>(other.numel());
  trace("nothing to do", 2 * products * terms * static_cast<double>(s.k),
        (products * elements + terms) * static_cast<double>(dtype_size(x.dtype)));
}

}  // namespace

void matmul_forward(Output& y, const Tensor& x, const Tensor& other, const Tensor* bias) {
  const Sizes s = sizes_of("matmul", x, other);
  if (bias) {
    check_same_dtype("matmul", "bias", *bias, "x", x);
    check(other.ndim() == 2, "matmul", "a bias goes with a matrix other, got shape ", other.shape);
    check_shape("matmul", "bias", *bias, {s.n});
  }
  const Tensor& out = y.make("matmul", s.y, x.dtype);
  trace_products(s, 1, x, other);
  GemmPlan plan = {s.m, s.n, s.k, s.k, 1, s.n, 1};
  const Shape a = batch_strides(x, s.batch), b = batch_strides(other, s.batch);
  for (int i = 0; i < s.batch.ndim(); ++i) add_loop(plan.batch, {s.batch[i], a[i], b[i]});
  plan.bias_col_stride = bias != nullptr;
  run_gemm(out, x, other, bias, plan);
}

void matmul_backward(Output* dx, Output* dother, const Tensor& dy, const Tensor& x,
                     const Tensor& other) {
  const char* op = "matmul_backward";
  const Sizes s = sizes_of(op, x, other);
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, s.y);
  trace_products(s, (dx != nullptr) + (dother != nullptr), x, other);
  Shape dy_strides = s.batch;
  for (int64_t i = s.batch.ndim() - 1, stride = s.m * s.n; i >= 0; --i) {
    dy_strides[static_cast<int>(i)] = stride;
    stride *= s.batch[static_cast<int>(i)];
  }
  const Factor x_ = {x, s.k, 1}, other_ = {other, s.n, 1}, dy_ = {dy, s.n, 1};
  if (dx) {
    product(dx->make(op, x.shape, x.dtype), x, s, s.m, s.k, s.n, dy_, dy_strides,
            other_.transposed(), batch_strides(other, s.batch));
  }
  if (dother) {
    product(dother->make(op, other.shape, x.dtype), other, s, s.k, s.n, s.m, x_.transposed(),
            batch_strides(x, s.batch), dy_, dy_strides);
  }
}

}  // namespace fastdl::ops
