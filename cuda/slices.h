// Functions of slices of arrays (outer, dim, inner) along dim:
//
//   s = op.ready(all elements of the slice, by op.add and merge),   y[i] = op.result(element i, s)
//
// for softmax and the losses on top of it. Where inner = 1 and a slice fits the registers of a
// block, memory is read once; otherwise twice, the second time mostly from L2.
#pragma once

#include "cuda/reduce.h"

namespace fastdl::cuda {

// The i-th element of each input.
template <typename C, int I>
struct Element {
  C in[I];
};

template <typename T, int I>
struct Inputs {
  const T* in[I];

  template <int N>
  __device__ void load(Pack<T, N> (&packs)[I], int64_t offset) const {
#pragma unroll
    for (int k = 0; k < I; ++k) packs[k] = *reinterpret_cast<const Pack<T, N>*>(in[k] + offset);
  }
  bool aligned() const {
    return std::all_of(in, in + I, [](const T* p) { return is_aligned(p); });
  }
};

template <typename T, int I, int N>
__device__ Element<Compute<T>, I> element_of(const Pack<T, N> (&packs)[I], int lane) {
  Element<Compute<T>, I> e;
#pragma unroll
  for (int k = 0; k < I; ++k) e.in[k] = widen(packs[k].values[lane]);
  return e;
}

template <typename Op, typename Stat, typename T, int I, int N>
__device__ void add_pack(const Op& op, Stat& s, const Pack<T, N> (&packs)[I]) {
  Element<Compute<T>, I> elements[N];
#pragma unroll
  for (int lane = 0; lane < N; ++lane) elements[lane] = element_of(packs, lane);
  op.add(s, elements);
}

template <typename Op, typename Stat, typename T, int I, int N>
__device__ void put_pack(const Op& op, const Stat& s, T* y, const Pack<T, N> (&packs)[I]) {
  Pack<T, N> result;
#pragma unroll
  for (int lane = 0; lane < N; ++lane) {
    result.values[lane] = narrow<T>(op.result(element_of(packs, lane), s));
  }
  *reinterpret_cast<Pack<T, N>*>(y) = result;
}

// Sums of numbers; online_sum.h has another.
__device__ inline float merge(float a, float b) { return a + b; }
__device__ inline double merge(double a, double b) { return a + b; }

struct Merge {
  template <typename S>
  __device__ S operator()(const S& a, const S& b) const {
    return merge(a, b);
  }
};

constexpr int kRowThreads = 512;  // at most, so that a thread has 128 registers

// Rows of `dim` neighbours: blockDim.x threads each, blockDim.y rows a block. A thread keeps what
// it has read in kHeld packs of N elements, or, with kHeld = 0, reads it again.
template <int N, int kHeld, typename Op, typename T, int I>
__global__ void __launch_bounds__(kRowThreads)
    row_kernel(Op op, T* y, Inputs<T, I> x, int64_t rows, int64_t dim) {
  const int64_t begin = int64_t{threadIdx.x} * N, step = int64_t{blockDim.x} * N;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows;
       first += int64_t{gridDim.x} * blockDim.y) {
    const int64_t row = first + threadIdx.y, offset = row * dim;
    const int64_t size = row < rows ? dim : 0;  // threads without a row meet the others in reduce
    auto s = op.none();
    if constexpr (kHeld > 0) {
      Pack<T, N> held[kHeld][I];
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        if (begin + j * step < size) x.load(held[j], offset + begin + j * step);
      }
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        if (begin + j * step < size) add_pack(op, s, held[j]);
      }
      s = op.ready(row_reduce(s, Merge(), op.none()));
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        if (begin + j * step < size) put_pack(op, s, y + offset + begin + j * step, held[j]);
      }
    } else {
      Pack<T, N> packs[I];
      for (int64_t i = begin; i < size; i += step) {
        x.load(packs, offset + i);
        add_pack(op, s, packs);
      }
      s = op.ready(row_reduce(s, Merge(), op.none()));
      for (int64_t i = begin; i < size; i += step) {
        x.load(packs, offset + i);
        put_pack(op, s, y + offset + i, packs);
      }
    }
  }
}

constexpr int kColumnWidth = 32, kColumnDepth = 8;  // threads of a block

// 32 columns side by side, 8 threads to each.
template <typename Op, typename T, int I>
__global__ void __launch_bounds__(kColumnWidth* kColumnDepth)
    column_kernel(Op op, T* y, Inputs<T, I> x, int64_t columns, int64_t dim, int64_t inner) {
  using Stat = decltype(op.none());
  alignas(16) __shared__ unsigned char bytes[kColumnWidth * kColumnDepth * sizeof(Stat)];
  Stat* const of_threads = reinterpret_cast<Stat*>(bytes);
  for (int64_t first = int64_t{blockIdx.x} * kColumnWidth; first < columns;
       first += int64_t{gridDim.x} * kColumnWidth) {
    const int64_t column = first + threadIdx.x;
    const int64_t offset = column / inner * dim * inner + column % inner;
    const int64_t size = column < columns ? dim : 0;
    Pack<T, 1> packs[I];
    Stat s = op.none();
    for (int64_t i = threadIdx.y; i < size; i += kColumnDepth) {
      x.load(packs, offset + i * inner);
      add_pack(op, s, packs);
    }
    of_threads[threadIdx.y * kColumnWidth + threadIdx.x] = s;
    __syncthreads();
    s = of_threads[threadIdx.x];
    for (int k = 1; k < kColumnDepth; ++k) {
      s = merge(s, of_threads[k * kColumnWidth + threadIdx.x]);
    }
    __syncthreads();  // before the next columns come there
    s = op.ready(s);
    for (int64_t i = threadIdx.y; i < size; i += kColumnDepth) {
      x.load(packs, offset + i * inner);
      put_pack(op, s, y + offset + i * inner, packs);
    }
  }
}

template <typename Op, typename T, int I>
void map_columns(const Device& device, Op op, T* y, const Inputs<T, I>& x, int64_t outer,
                 int64_t dim, int64_t inner) {
  const int64_t columns = outer * inner;
  const int64_t blocks = std::min(ceil_div<int64_t>(columns, kColumnWidth), kMaxBlocks);
  launch(device, {static_cast<unsigned>(blocks), {kColumnWidth, kColumnDepth}},
         column_kernel<Op, T, I>, op, y, x, columns, dim, inner);
}

template <int N, typename Op, typename T, int I>
void map_rows(const Device& device, Op op, T* y, const Inputs<T, I>& x, int64_t rows, int64_t dim) {
  constexpr int kShare = 16;  // elements of a thread, in registers
  constexpr int kHeld = kShare / N;
  // As few threads a row as can hold it, but whole warps beyond one; 128 threads a block at least.
  const int64_t wanted = ceil_div<int64_t>(dim, kShare);
  int threads = 1;
  while (threads < kRowThreads && threads < wanted) threads *= 2;
  const int together = threads <= kWarp ? 128 / threads : 1;
  const int64_t blocks = std::min(ceil_div<int64_t>(rows, together), kMaxBlocks);
  const Grid grid{static_cast<unsigned>(blocks),
                  dim3(static_cast<unsigned>(threads), static_cast<unsigned>(together))};
  if (wanted <= threads) {
    launch(device, grid, row_kernel<N, kHeld, Op, T, I>, op, y, x, rows, dim);
  } else {
    launch(device, grid, row_kernel<N, 0, Op, T, I>, op, y, x, rows, dim);
  }
}

// y may be one of the inputs.
template <typename Op, typename T, int I>
void map_slices(const Device& device, Op op, T* y, const Inputs<T, I>& x, int64_t outer,
                int64_t dim, int64_t inner) {
  constexpr int N = kPackSize<T>;
  if (inner > 1) {
    map_columns(device, op, y, x, outer, dim, inner);
  } else if (dim % N == 0 && is_aligned(y) && x.aligned()) {
    map_rows<N>(device, op, y, x, outer, dim);
  } else {
    map_rows<1>(device, op, y, x, outer, dim);
  }
}

}  // namespace fastdl::cuda
