// Functions of slices of arrays (outer, dim, inner) along dim:
//
//   slice = slice_of(op, its number),   s = all elements put together by slice.add and merge,
//   y[i] = slice.result(element i, slice.ready(s)),  or slice.store(s), if it has one result
//
// for softmax and the losses on top of it. Where a slice fits the registers of the threads that
// share it, memory is read once; otherwise twice, the second time mostly from L2.
#pragma once

#include "cuda/inputs.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {

// For ops to which all slices are alike.
template <typename Op>
__device__ const Op& slice_of(const Op& op, int64_t) {
  return op;
}

template <typename Op>
using SliceOf = std::remove_cvref_t<decltype(slice_of(std::declval<const Op&>(), int64_t{}))>;
template <typename Slice>
concept HasOneResult = requires(const Slice& slice) { slice.store(slice.none()); };

// reduce(s) merges what the threads of a slice have added up.
template <int N, bool kOnce, typename Slice, typename T, int I, typename Reduce>
__device__ void map_slice(const Slice& slice, T* y, SlicePart<N, kOnce, T, I> part,
                          Reduce&& reduce) {
  auto s = slice.none();
  part.template for_each_chunk<true>(
      [&](const auto& elements, int count) { slice.add(s, elements, count); });
  const auto sum = reduce(s);
  if constexpr (HasOneResult<Slice>) {
    if (part.begin == 0 && part.size > 0) slice.store(sum);
  } else {
    const auto ready = slice.ready(sum);
    part.map_packs(y, [&](const auto& elements, Compute<T>(&results)[N]) {
#pragma unroll
      for (int k = 0; k < N; ++k) results[k] = slice.result(elements[k], ready);
    });
  }
}

// Threads of a row at most: so that each has 128 registers, or 255.
template <typename T>
constexpr int kRowThreads = sizeof(T) < 8 ? 512 : 256;
// Ops that need more than 64 registers.
template <typename Op>
constexpr bool kManyRegisters = false;
// Blocks on a multiprocessor: said outright, or the compiler spills to have two.
template <typename T, int N>
constexpr int kRowBlocks = N > 1 && sizeof(T) < 8 ? 2 : 1;

// Rows of `dim` neighbours: blockDim.x threads each, blockDim.y rows a block.
template <int N, bool kOnce, typename Op, typename T, int I>
__global__ void __launch_bounds__(kRowThreads<T>, kManyRegisters<Op> ? 1 : kRowBlocks<T, N>)
    row_kernel(Op op, T* y, Inputs<T, I> x, int64_t rows, int64_t dim) {
  const int begin = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  for (int64_t first = int64_t{blockIdx.x} * blockDim.y; first < rows;
       first += int64_t{gridDim.x} * blockDim.y) {
    const int64_t row = first + threadIdx.y;
    const bool exists = row < rows;  // threads without a row meet the others in row_reduce
    const auto& slice = slice_of(op, exists ? row : first);
    map_slice(slice, y, SlicePart<N, kOnce, T, I>(x, row * dim, begin, step, exists ? dim : 0, 1),
              [&](auto s) { return row_reduce(s, Merge(), slice.none()); });
  }
}

constexpr int kColumnWidth = 32, kColumnDepth = 8;  // threads of a block
template <typename T>
constexpr int kColumnBlocks = sizeof(T) < 8 ? 2 : 1;

// 32 columns side by side, 8 threads to each.
template <bool kOnce, typename Op, typename T, int I>
__global__ void __launch_bounds__(kColumnWidth* kColumnDepth, kColumnBlocks<T>)
    column_kernel(Op op, T* y, Inputs<T, I> x, int64_t columns, int64_t dim, int64_t inner) {
  for (int64_t first = int64_t{blockIdx.x} * kColumnWidth; first < columns;
       first += int64_t{gridDim.x} * kColumnWidth) {
    const int64_t column = first + threadIdx.x;
    const bool exists = column < columns;
    const int64_t offset = column / inner * dim * inner + column % inner;
    const auto& slice = slice_of(op, exists ? column : first);
    using Stat = decltype(slice.none());
    alignas(16) __shared__ unsigned char bytes[kColumnWidth * kColumnDepth * sizeof(Stat)];
    Stat* const of_threads = reinterpret_cast<Stat*>(bytes);
    map_slice(
        slice, y,
        SlicePart<1, kOnce, T, I>(x, offset, threadIdx.y, kColumnDepth, exists ? dim : 0, inner),
        [&](Stat s) {
          of_threads[threadIdx.y * kColumnWidth + threadIdx.x] = s;
          __syncthreads();
          s = of_threads[threadIdx.x];
          for (int k = 1; k < kColumnDepth; ++k) {
            s = merge(s, of_threads[k * kColumnWidth + threadIdx.x]);
          }
          __syncthreads();  // before the next columns come there
          return s;
        });
  }
}

// As few threads a row as can hold it, but whole warps beyond one; 128 threads a block at least.
struct RowGrid {
  int threads, together;  // of a row; rows of a block
  bool once;              // whether the threads hold a row

  RowGrid(int64_t dim, int share, int most_threads) {
    const int64_t wanted = ceil_div<int64_t>(dim, share);
    for (threads = 1; threads < most_threads && threads < wanted;) threads *= 2;
    together = threads <= kWarp ? 128 / threads : 1;
    once = wanted <= threads;
  }
  Grid grid(int64_t rows, int64_t most_blocks = kMaxBlocks) const {
    const int64_t blocks = std::clamp<int64_t>(ceil_div<int64_t>(rows, together), 1, most_blocks);
    return {static_cast<unsigned>(blocks),
            dim3(static_cast<unsigned>(threads), static_cast<unsigned>(together))};
  }
};

template <int N, typename Op, typename T, int I>
void map_rows(const Device& device, Op op, T* y, const Inputs<T, I>& x, int64_t rows, int64_t dim) {
  const RowGrid shape(dim, kShare<T, N>, kRowThreads<T>);
  if constexpr (!HasOneResult<SliceOf<Op>>) {
    if (shape.once) {
      return launch(device, shape.grid(rows), row_kernel<N, true, Op, T, I>, op, y, x, rows, dim);
    }
  }
  launch(device, shape.grid(rows), row_kernel<N, false, Op, T, I>, op, y, x, rows, dim);
}

template <typename Op, typename T, int I>
void map_columns(const Device& device, Op op, T* y, const Inputs<T, I>& x, int64_t outer,
                 int64_t dim, int64_t inner) {
  const int64_t columns = outer * inner;
  const int64_t blocks = std::min(ceil_div<int64_t>(columns, kColumnWidth), kMaxBlocks);
  const Grid grid{static_cast<unsigned>(blocks), {kColumnWidth, kColumnDepth}};
  if constexpr (!HasOneResult<SliceOf<Op>>) {
    if (dim <= kColumnDepth * kShare<T, 1>) {
      return launch(device, grid, column_kernel<true, Op, T, I>, op, y, x, columns, dim, inner);
    }
  }
  launch(device, grid, column_kernel<false, Op, T, I>, op, y, x, columns, dim, inner);
}

// y may be one of the inputs; with one result a slice it is not used.
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
