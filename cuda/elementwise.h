// y[i] = f(x[i], ..) over arrays of one length and type, at most two. Packs of 16 bytes, where all
// of them are aligned.
#pragma once

#include "cuda/inputs.h"

namespace fastdl::cuda {

constexpr int kMapThreads = 256;

// Of I arrays; of none, one that is not read.
template <typename T, int I>
using Operands = Inputs<T, I == 0 ? 1 : I>;

template <int N, int I, typename T, typename F>
__device__ void map_pack(F f, T* y, const Operands<T, I>& x, int64_t at) {
  Pack<T, N> in[I == 0 ? 1 : I], result;
  if constexpr (I > 0) x.load(in, at);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    Compute<T> value;
    if constexpr (I == 0) {
      value = f();
    } else if constexpr (I == 1) {
      value = f(widen(in[0].values[k]));
    } else {
      value = f(widen(in[0].values[k]), widen(in[1].values[k]));
    }
    result.values[k] = narrow<T>(value);
  }
  *reinterpret_cast<Pack<T, N>*>(y + at) = result;
}

template <int N, int I, typename T, typename F>
__global__ void __launch_bounds__(kMapThreads) map_kernel(int64_t n, F f, T* y, Operands<T, I> x) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < n / N; i += stride) map_pack<N, I>(f, y, x, i * N);
  const int64_t rest = n / N * N + first;
  if (rest < n) map_pack<1, I>(f, y, x, rest);
}

// y may be one of the others.
template <typename T, typename F, typename... X>
void map(const Device& device, T* y, int64_t n, F f, const X*... x) {
  if (n == 0) return;
  constexpr int N = kPackSize<T>, I = sizeof...(X);
  const Operands<T, I> operands{{x...}};
  const bool aligned = is_aligned(y) && operands.aligned();
  const int64_t steps = aligned ? std::max<int64_t>(n / N, N) : n;
  // Enough blocks to fill the device some 16 times; beyond that threads go on.
  const int64_t most = int64_t{limits(device).multiprocessors} * 8 * 16;
  const Grid grid{static_cast<unsigned>(std::min(ceil_div<int64_t>(steps, kMapThreads), most)),
                  kMapThreads};
  if (aligned) {
    launch(device, grid, map_kernel<N, I, T, F>, n, f, y, operands);
  } else {
    launch(device, grid, map_kernel<1, I, T, F>, n, f, y, operands);
  }
}

}  // namespace fastdl::cuda
