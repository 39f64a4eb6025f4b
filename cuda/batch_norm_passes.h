// How batch_norm reduces every channel of (batch, channels, inner) and maps every element:
//
//   planes    inner > 1: packs of neighbours in a plane; many blocks share a channel
//   columns   inner = 1: packs of neighbouring channels; many blocks share the rows
//
// Each block leaves one Sum a channel, (splits, channels) of them, which the caller puts together
// in order. The map goes backwards through memory: what the reduction read last is still in L2.
#pragma once

#include "cuda/inputs.h"
#include "cuda/parameter.h"
#include "cuda/reduce.h"
#include "kernels/batch_norm.h"

namespace fastdl::cuda {

constexpr int kThreads = 256;
template <int N>
constexpr int kColumnRows = N > 4 ? 4 : 8;  // that a thread has on the way, of N channels

// What a channel's elements are mapped with.
template <typename C>
struct alignas(4 * sizeof(C)) Terms {
  C v[4];
};

// Packs at p, p + step, .. of all packs of a plane's `size` after plane: which of its plane, and
// how many planes on. Without a division for each.
struct PlaneWalk {
  int64_t size, planes, index, plane_step, index_step;

  __device__ PlaneWalk(int64_t p, int64_t step, int64_t size)
      : size(size),
        planes(p / size),
        index(p % size),
        plane_step(step / size),
        index_step(step % size) {}
  __device__ void advance() {
    planes += plane_step;
    index += index_step;
    if (index >= size) {
      index -= size;
      ++planes;
    }
  }
};

template <int N, typename Op, typename T, int I>
__global__ void __launch_bounds__(kThreads, 2)
    reduce_planes_kernel(Op op, typename Op::Sum* sums, Inputs<T, I> x, Parameter<T> center,
                         BatchNormSizes sizes, int64_t splits) {
  constexpr int kElements = kShare<T, N>, kPacks = kElements / N;
  const int64_t plane = sizes.inner / N, all = sizes.batch * plane;
  const int64_t share = ceil_div(all, splits);
  for (int64_t unit = blockIdx.x; unit < splits * sizes.channels; unit += gridDim.x) {
    const int64_t split = unit / sizes.channels, c = unit % sizes.channels;
    const int64_t end = (split + 1) * share < all ? (split + 1) * share : all;
    int64_t p = split * share + threadIdx.x;
    PlaneWalk walk(p, kThreads, plane);
    const Compute<T> middle = center.load(c);
    typename Op::Sum sum = op.none();
    for (; p < end; p += kPacks * kThreads) {
      Pack<T, N> packs[kPacks][I];
      int count = 0;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (p + j * kThreads >= end) break;
        x.load(packs[j], (walk.planes * sizes.channels + c) * sizes.inner + walk.index * N);
        walk.advance();
        count = (j + 1) * N;
      }
      const auto value = [&](int input, int k) { return widen(packs[k / N][input].values[k % N]); };
      if (count == kElements) {
        op.template add<kElements>(sum, kElements, middle, value);
      } else {
        op.template add<kElements>(sum, count, middle, value);
      }
    }
    sum = row_reduce(sum, Merge(), op.none());
    if (threadIdx.x == 0) sums[unit] = sum;
  }
}

template <int N, typename Op, typename T, int I>
__global__ void __launch_bounds__(kThreads, 1)
    reduce_columns_kernel(Op op, typename Op::Sum* sums, Inputs<T, I> x, Parameter<T> center,
                          int64_t rows, int64_t channels) {
  using Sum = typename Op::Sum;
  alignas(16) __shared__ unsigned char bytes[kThreads * sizeof(Sum)];
  Sum* const of_threads = reinterpret_cast<Sum*>(bytes);
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  const int64_t share = ceil_div<int64_t>(rows, gridDim.y), split = blockIdx.y;
  const int64_t end = (split + 1) * share < rows ? (split + 1) * share : rows;
  const int64_t depth = blockDim.y;
  Compute<T> middle[N];
  Sum sum[N];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    middle[k] = c < channels ? center.load(c + k) : 0;
    sum[k] = op.none();
  }
  for (int64_t r = split * share + threadIdx.y; r < end; r += kColumnRows<N> * depth) {
    if (c >= channels) break;
    Pack<T, N> packs[kColumnRows<N>][I];
    int count = 0;
#pragma unroll
    for (int j = 0; j < kColumnRows<N>; ++j) {
      if (r + j * depth >= end) break;
      x.load(packs[j], (r + j * depth) * channels + c);
      count = j + 1;
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const auto value = [&](int input, int j) { return widen(packs[j][input].values[k]); };
      if (count == kColumnRows<N>) {
        op.template add<kColumnRows<N>>(sum[k], kColumnRows<N>, middle[k], value);
      } else {
        op.template add<kColumnRows<N>>(sum[k], count, middle[k], value);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < N; ++k) {
    of_threads[threadIdx.y * blockDim.x + threadIdx.x] = sum[k];
    __syncthreads();
    if (threadIdx.y == 0 && c < channels) {
      Sum total = of_threads[threadIdx.x];
      for (unsigned y = 1; y < blockDim.y; ++y) {
        total = merge(total, of_threads[y * blockDim.x + threadIdx.x]);
      }
      sums[split * channels + c + k] = total;
    }
    __syncthreads();  // before the next channels come there
  }
}

template <typename T, int N, int I, typename Map>
__device__ void map_pack(const Map& map, T* y, const Pack<T, N> (&packs)[I],
                         const Terms<Compute<T>> (&terms)[N]) {
  Pack<T, N> result;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Compute<T> in[I];
#pragma unroll
    for (int l = 0; l < I; ++l) in[l] = widen(packs[l].values[k]);
    result.values[k] = narrow<T>(map(in, terms[k]));
  }
  *reinterpret_cast<Pack<T, N>*>(y) = result;
}

template <int N, typename Map, typename T, int I>
__global__ void __launch_bounds__(kThreads)
    map_planes_kernel(Map map, T* y, Inputs<T, I> x, const Terms<Compute<T>>* terms,
                      BatchNormSizes sizes) {
  constexpr int kPacks = kShare<T, N> / N;
  const int64_t plane = sizes.inner / N, all = sizes.batch * sizes.channels * plane;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  int64_t p = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  PlaneWalk walk(p, step, plane);
  walk.planes %= sizes.channels;  // so it is the channel, counted from the last
  walk.plane_step %= sizes.channels;
  for (; p < all; p += kPacks * step) {
    Pack<T, N> packs[kPacks][I];
    Terms<Compute<T>> of_channel[kPacks];
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (p + j * step >= all) break;
      x.load(packs[j], (all - 1 - p - j * step) * N);
      of_channel[j] = terms[sizes.channels - 1 - walk.planes];
      walk.advance();
      if (walk.planes >= sizes.channels) walk.planes -= sizes.channels;
    }
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (p + j * step >= all) break;
      Terms<Compute<T>> same[N];
#pragma unroll
      for (int k = 0; k < N; ++k) same[k] = of_channel[j];
      map_pack(map, y + (all - 1 - p - j * step) * N, packs[j], same);
    }
  }
}

template <int N, typename Map, typename T, int I>
__global__ void __launch_bounds__(kThreads)
    map_columns_kernel(Map map, T* y, Inputs<T, I> x, const Terms<Compute<T>>* terms, int64_t rows,
                       int64_t channels) {
  constexpr int kPacks = kShare<T, N> / N;
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (c >= channels) return;
  Terms<Compute<T>> of_channels[N];
#pragma unroll
  for (int k = 0; k < N; ++k) of_channels[k] = terms[c + k];
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t r = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; r < rows; r += kPacks * step) {
    Pack<T, N> packs[kPacks][I];
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (r + j * step < rows) x.load(packs[j], (rows - 1 - r - j * step) * channels + c);
    }
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (r + j * step >= rows) break;
      map_pack(map, y + (rows - 1 - r - j * step) * channels + c, packs[j], of_channels);
    }
  }
}

// How the blocks share the work; `packs` says whether packs of N > 1 fit.
struct Passes {
  const Device& device;
  BatchNormSizes sizes;
  bool packs;

  // Blocks that reduce a channel: of 64 elements a thread at least, so that putting their sums
  // together costs little, and no more than fill the device twice.
  template <typename T>
  int64_t splits() const {
    if (sizes.inner > 1) {
      const int64_t enough = ceil_div<int64_t>(most_blocks(), sizes.channels);
      return at_most(sizes.batch * sizes.inner / (64 * kThreads), enough);
    }
    const Grid grid = columns_grid<T>();
    const int64_t rows = int64_t{grid.threads.y} * 32;
    return at_most(sizes.batch / rows, ceil_div<int64_t>(most_blocks(), grid.blocks.x));
  }

  template <typename Op, typename T, int I>
  void reduce(Op op, typename Op::Sum* sums, const Inputs<T, I>& x, Parameter<T> center) const {
    if (packs) {
      reduce_packs<kPackSize<T>>(op, sums, x, center);
    } else {
      reduce_packs<1>(op, sums, x, center);
    }
  }

  template <typename Map, typename T, int I>
  void map(Map map, T* y, const Inputs<T, I>& x, const Terms<Compute<T>>* terms) const {
    if (packs) {
      map_packs<kPackSize<T>>(map, y, x, terms);
    } else {
      map_packs<1>(map, y, x, terms);
    }
  }

 private:
  static int64_t at_most(int64_t wanted, int64_t most) {
    return std::max<int64_t>(std::min({wanted, most, int64_t{65535}}), 1);
  }
  int64_t most_blocks() const { return int64_t{limits(device).multiprocessors} * 8 * 2; }

  // Blocks of threads (packs of channels, rows), the former in equal tiles.
  template <typename T>
  Grid columns_grid() const {
    const int64_t width = packs ? sizes.channels / kPackSize<T> : sizes.channels;
    const int64_t tiles = ceil_div<int64_t>(width, 64), tile = ceil_div(width, tiles);
    return {static_cast<unsigned>(tiles),
            dim3(static_cast<unsigned>(tile), static_cast<unsigned>(kThreads / tile))};
  }

  template <int N, typename Op, typename T, int I>
  void reduce_packs(Op op, typename Op::Sum* sums, const Inputs<T, I>& x,
                    Parameter<T> center) const {
    if (sizes.inner > 1) {
      const int64_t units = std::min(splits<T>() * sizes.channels, kMaxBlocks);
      return launch(device, Grid{static_cast<unsigned>(units), kThreads},
                    reduce_planes_kernel<N, Op, T, I>, op, sums, x, center, sizes, splits<T>());
    }
    Grid grid = columns_grid<T>();
    grid.blocks.y = static_cast<unsigned>(splits<T>());
    launch(device, grid, reduce_columns_kernel<N, Op, T, I>, op, sums, x, center, sizes.batch,
           sizes.channels);
  }

  template <int N, typename Map, typename T, int I>
  void map_packs(Map map, T* y, const Inputs<T, I>& x, const Terms<Compute<T>>* terms) const {
    if (sizes.inner > 1) {
      const int64_t threads = sizes.batch * sizes.channels * sizes.inner / kShare<T, N>;
      const int64_t blocks = at_most(threads / kThreads, most_blocks() * 4);
      return launch(device, Grid{static_cast<unsigned>(blocks), kThreads},
                    map_planes_kernel<N, Map, T, I>, map, y, x, terms, sizes);
    }
    Grid grid = columns_grid<T>();
    const int64_t rows = sizes.batch / (int64_t{grid.threads.y} * 16);
    const int64_t blocks = at_most(rows, ceil_div<int64_t>(most_blocks() * 4, grid.blocks.x));
    grid.blocks.y = static_cast<unsigned>(blocks);
    launch(device, grid, map_columns_kernel<N, Map, T, I>, map, y, x, terms, sizes.batch,
           sizes.channels);
  }
};

}  // namespace fastdl::cuda
