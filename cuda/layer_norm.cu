// y = (x - mean) * rstd * weight + bias for every row,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dweight = sum dy * xhat,  dbias = sum dy.
//
// A row of up to 8192 elements (fewer of float64, or where packs do not fit) lies in registers from
// when it is read until it is written: memory is read once and written once. Its sum gives a rough
// mean, and the sums of d = x - rough and d^2 the mean and variance, where nothing cancels. dweight
// and dbias: a block adds up its rows in shared memory in the same pass, a second kernel adds the
// blocks in order.
#include "cuda/layer_norm.h"

#include "cuda/add_blocks.h"
#include "cuda/moments.h"
#include "cuda/parameter.h"
#include "cuda/slices.h"

namespace fastdl::cuda {
namespace {

template <typename C>
struct Pair {
  C a, b;
};
template <typename C>
__device__ Pair<C> merge(const Pair<C>& a, const Pair<C>& b) {
  return {a.a + b.a, a.b + b.b};
}

// The mean of a row is center + rest, unrounded.
template <typename C>
struct RowMoments {
  C center, rest, rstd;
};

// In double: for sums that overflow, and for inf and NaN.
template <typename C, typename Part>
__device__ RowMoments<C> wide_moments(Part& part, double count, double eps) {
  double sum = 0, squares = 0;
  part.for_each_chunk([&](const auto& x, int n) {
#pragma unroll
    for (int k = 0; k < Part::kElements; ++k) {
      if (k < n) sum += static_cast<double>(x[k].in[0]);
    }
  });
  const double mean = row_reduce(sum, Sum(), 0.0) / count;
  part.for_each_chunk([&](const auto& x, int n) {
#pragma unroll
    for (int k = 0; k < Part::kElements; ++k) {
      if (k >= n) continue;
      const double d = static_cast<double>(x[k].in[0]) - mean;
      squares += d * d;
    }
  });
  const double variance = row_reduce(squares, Sum(), 0.0) / count;
  const C center = static_cast<C>(mean);
  const C rest = static_cast<C>(mean - static_cast<double>(center));
  return {center, isfinite(rest) ? rest : C{0}, static_cast<C>(1 / sqrt(variance + eps))};
}

template <typename C, typename Part>
__device__ RowMoments<C> row_moments(Part& part, C count, double eps) {
  C sum = 0;
  part.template for_each_chunk<true>([&](const auto& x, int n) {
#pragma unroll
    for (int k = 0; k < Part::kElements; ++k) {
      if (k < n) sum += x[k].in[0];
    }
  });
  const C center = row_reduce(sum, Sum(), C{0}) / count;
  Pair<C> sums{0, 0};
  part.for_each_chunk([&](const auto& x, int n) {
#pragma unroll
    for (int k = 0; k < Part::kElements; ++k) {
      if (k >= n) continue;
      const C d = x[k].in[0] - center;
      sums.a += d;
      sums.b += d * d;
    }
  });
  sums = row_reduce(sums, Merge(), Pair<C>{0, 0});
  const C rest = sums.a / count, difference = sums.b / count - rest * rest;
  const C variance = difference < 0 ? C{0} : difference;
  RowMoments<C> moments{center, rest, 1 / sqrt(variance + static_cast<C>(eps))};
  const bool overflows = !isfinite(variance);
  if (__any_sync(kAllLanes, overflows)) {  // another row's may: all lanes take part
    const RowMoments<C> wide = wide_moments<C>(part, static_cast<double>(count), eps);
    if (overflows) moments = wide;
  }
  return moments;
}

template <int N, bool kOnce, typename T>
__global__ void __launch_bounds__(kRowThreads<T>, kRowBlocks<T, N>)
    forward_kernel(T* y, Compute<T>* mean, Compute<T>* rstd, Inputs<T, 1> x, Parameter<T> weight,
                   Parameter<T> bias, int64_t rows, int64_t size, double eps) {
  using C = Compute<T>;
  const int begin = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows;
       first += int64_t{gridDim.x} * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const bool exists = row < rows;  // threads without a row meet the others in row_reduce
    SlicePart<N, kOnce, T, 1> part(x, row * size, begin, step, exists ? size : 0, 1);
    const auto moments = row_moments(part, static_cast<C>(size > 0 ? size : 1), eps);
    if (exists && threadIdx.x == 0) {
      mean[row] = moments.center + moments.rest;
      rstd[row] = moments.rstd;
    }
    part.map_packs(y, [&](const auto& e, C(&results)[N]) {
      C w[N], b[N];
      weight.load(w, e[0].at, 1);
      bias.load(b, e[0].at, 0);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        results[k] = (e[k].in[0] - moments.center - moments.rest) * moments.rstd * w[k] + b[k];
      }
    });
  }
}

// Inputs: dy, x. With partial sums: (blocks, 2, size), where a row is held.
template <int N, bool kOnce, typename T>
__global__ void __launch_bounds__(kRowThreads<T>, 1)
    backward_kernel(T* dx, Compute<T>* partial, Inputs<T, 2> in, Parameter<T> mean,
                    Parameter<T> rstd, Parameter<T> weight, int64_t rows, int64_t size) {
  using C = Compute<T>;
  const int threads = static_cast<int>(blockDim.x), begin = static_cast<int>(threadIdx.x) * N;
  // Sums of dy * xhat and of dy: those of a thread are its own, k * all threads apart.
  const int all = threads * static_cast<int>(blockDim.y);
  const int thread = static_cast<int>(threadIdx.x + threadIdx.y * blockDim.x);
  C* const sums = dynamic_shared<C>() + thread;
  if constexpr (kOnce) {
    if (partial) {
#pragma unroll
      for (int k = 0; k < 2 * kShare<T, N>; ++k) sums[k * all] = 0;
    }
  }
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows;
       first += int64_t{gridDim.x} * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const bool exists = row < rows;
    SlicePart<N, kOnce, T, 2> part(in, row * size, begin, threads * N, exists ? size : 0, 1);
    const C center = exists ? mean.load(row) : C{0}, scale = exists ? rstd.load(row) : C{0};
    const auto xhat = [&](const Element<C, 2>& e) { return (e.in[1] - center) * scale; };
    Pair<C> means{0, 0};
    part.template for_each_chunk<true>([&](const auto& e, int n) {
#pragma unroll
      for (int j = 0; j < part.kElements; j += N) {
        if (j >= n) break;
        C w[N];
        weight.load(w, e[j].at, 1);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const C dy = e[j + k].in[0], g = dy * w[k], normal = xhat(e[j + k]);
          means.a += g;
          means.b += g * normal;
          if constexpr (kOnce) {
            if (!partial) continue;
            sums[(j + k) * all] += dy * normal;
            sums[(kShare<T, N> + j + k) * all] += dy;
          }
        }
      }
    });
    if (!dx) continue;
    means = row_reduce(means, Merge(), Pair<C>{0, 0});
    means.a /= static_cast<C>(size);
    means.b /= static_cast<C>(size);
    part.map_packs(dx, [&](const auto& e, C(&results)[N]) {
      C w[N];
      weight.load(w, e[0].at, 1);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        results[k] = (e[k].in[0] * w[k] - means.a - xhat(e[k]) * means.b) * scale;
      }
    });
  }
  if constexpr (kOnce) {
    if (!partial) return;
    __syncthreads();
    // Element j * N + k of thread t is column (j * threads + t) * N + k.
    C* const out = partial + int64_t{blockIdx.x} * 2 * size;
    for (int i = thread; i < 2 * kShare<T, N> * threads; i += all) {
      const int which = i / threads % kShare<T, N>, t = i % threads;
      const int column = (which / N * threads + t) * N + which % N;
      if (column >= size) continue;
      const C* const of_rows = dynamic_shared<C>() + i / threads * all + t;
      C sum = 0;
      for (int r = 0; r < static_cast<int>(blockDim.y); ++r) sum += of_rows[r * threads];
      out[i / threads / kShare<T, N> * size + column] = sum;
    }
  }
}

constexpr int kColumns = 32, kDepth = 8;

// The partial sums of rows too long for that: 32 columns a block, 8 threads each.
template <typename T>
__global__ void __launch_bounds__(kColumns* kDepth)
    column_kernel(Compute<T>* partial, const T* dy, const T* x, Parameter<T> mean,
                  Parameter<T> rstd, int64_t rows, int64_t size) {
  using C = Compute<T>;
  alignas(16) __shared__ unsigned char bytes[kDepth * kColumns * sizeof(Pair<C>)];
  auto* const of_threads = reinterpret_cast<Pair<C>*>(bytes);
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  Pair<C> sums{0, 0};
  const int64_t step = int64_t{gridDim.y} * kDepth;
#pragma unroll 4
  for (int64_t r = int64_t{blockIdx.y} * kDepth + threadIdx.y; r < rows; r += step) {
    if (column >= size) break;
    const C g = widen(dy[r * size + column]);
    sums.a += g * ((widen(x[r * size + column]) - mean.load(r)) * rstd.load(r));
    sums.b += g;
  }
  of_threads[threadIdx.y * kColumns + threadIdx.x] = sums;
  __syncthreads();
  if (threadIdx.y > 0 || column >= size) return;
  for (int k = 1; k < kDepth; ++k) sums = merge(sums, of_threads[k * kColumns + threadIdx.x]);
  C* const out = partial + int64_t{blockIdx.y} * 2 * size + column;
  out[0] = sums.a;
  out[size] = sums.b;
}

template <int N, typename T>
void forward_rows(const Device& device, const Tensor& y, const Tensor& mean, const Tensor& rstd,
                  const Tensor& x, Parameter<T> weight, Parameter<T> bias, int64_t rows,
                  int64_t size, double eps) {
  using C = Compute<T>;
  const RowGrid shape(size, kShare<T, N>, kRowThreads<T>);
  launch(device, shape.grid(rows),
         shape.once ? forward_kernel<N, true, T> : forward_kernel<N, false, T>, y.ptr<T>(),
         mean.ptr<C>(), rstd.ptr<C>(), Inputs<T, 1>{{x.ptr<T>()}}, weight, bias, rows, size, eps);
}

template <int N, typename T>
void backward_rows(const Device& device, const Tensor* dx, const Tensor* dweight,
                   const Tensor* dbias, const Tensor& dy, const Tensor& x, Parameter<T> mean,
                   Parameter<T> rstd, Parameter<T> weight, int64_t rows, int64_t size) {
  using C = Compute<T>;
  const RowGrid shape(size, kShare<T, N>, kRowThreads<T>);
  const bool sums = dweight || dbias;
  const int64_t multiprocessors = limits(device).multiprocessors;
  const int block = shape.threads * shape.together;
  // While the sums are made there are as many blocks as the registers allow to run at once: each
  // leaves 2 * size partial sums.
  const int resident_threads = N > 1 && sizeof(T) < 8 ? 640 : 512;
  const int64_t resident = multiprocessors * std::max(resident_threads / block, 1);
  Grid grid = shape.grid(rows, sums && shape.once ? resident : kMaxBlocks);
  const int64_t tiles = ceil_div<int64_t>(size, kColumns);
  const int64_t blocks =
      shape.once ? int64_t{grid.blocks.x}
                 : std::max<int64_t>(
                       std::min(multiprocessors * 16 / tiles, ceil_div<int64_t>(rows, 64)), 1);
  const Workspace<C> partial(sums ? blocks * 2 * size : 0);
  if (shape.once && sums) {
    grid.shared_bytes = static_cast<size_t>(block) * 2 * kShare<T, N> * sizeof(C);
  }
  if (dx || shape.once) {
    launch(device, grid, shape.once ? backward_kernel<N, true, T> : backward_kernel<N, false, T>,
           ptr_or_null<T>(dx), sums ? partial.data() : nullptr,
           Inputs<T, 2>{{dy.ptr<T>(), x.ptr<T>()}}, mean, rstd, weight, rows, size);
  }
  if (!shape.once && sums) {
    launch(device,
           Grid{{static_cast<unsigned>(tiles), static_cast<unsigned>(blocks)}, {kColumns, kDepth}},
           column_kernel<T>, partial.data(), dy.ptr<T>(), x.ptr<T>(), mean, rstd, rows, size);
  }
  if (dweight) add_blocks(device, *dweight, partial.data(), size, blocks, 2 * size);
  if (dbias) add_blocks(device, *dbias, partial.data() + size, size, blocks, 2 * size);
}

}  // namespace

void LayerNorm::forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
                        const Tensor* weight, const Tensor* bias, int64_t rows, int64_t size,
                        double eps) const {
  if (rows == 0) return;
  dispatch(x.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    const Parameter<T> w(weight), b(bias);
    const bool packs =
        size % N == 0 && is_aligned(y.data) && is_aligned(x.data) && w.aligned() && b.aligned();
    (packs ? forward_rows<N, T> : forward_rows<1, T>)(device, y, mean, rstd, x, w, b, rows, size,
                                                      eps);
  });
}

void LayerNorm::backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias,
                         const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                         const Tensor* weight, int64_t rows, int64_t size) const {
  if (size == 0) return;
  dispatch(x.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    const Parameter<T> w(weight);
    const bool packs = size % N == 0 && is_aligned(dy.data) && is_aligned(x.data) && w.aligned() &&
                       (!dx || is_aligned(dx->data));
    (packs ? backward_rows<N, T> : backward_rows<1, T>)(device, dx, dweight, dbias, dy, x,
                                                        Parameter<T>(mean), Parameter<T>(rstd), w,
                                                        rows, size);
  });
}

}  // namespace fastdl::cuda
