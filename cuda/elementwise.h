// y[i] = f(x[i], ..) over arrays of one length. Packs of 16 bytes, where all arrays are aligned.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

constexpr int kMapThreads = 256;

template <int N, typename T, typename F, typename... X>
__global__ void __launch_bounds__(kMapThreads)
    map_kernel(int64_t n, F f, T* __restrict__ y, const X* __restrict__... x) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const auto map_pack = [&](Pack<T, N>& result, const Pack<X, N>&... packs) {
#pragma unroll
    for (int k = 0; k < N; ++k) result.values[k] = narrow<T>(f(widen(packs.values[k])...));
  };
  for (int64_t i = first; i < n / N; i += stride) {
    Pack<T, N> result;
    map_pack(result, reinterpret_cast<const Pack<X, N>*>(x)[i]...);
    reinterpret_cast<Pack<T, N>*>(y)[i] = result;
  }
  const int64_t rest = n / N * N + first;
  if (rest < n) y[rest] = narrow<T>(f(widen(x[rest])...));
}

// y may be one of the inputs.
template <typename T, typename F, typename... X>
void map(const Device& device, T* y, int64_t n, F f, const X*... x) {
  if (n == 0) return;
  constexpr int N = kPackSize<T>;
  const bool aligned = is_aligned(y) && (is_aligned(x) && ...);
  const int64_t steps = aligned ? std::max<int64_t>(n / N, 1) : n;
  // Enough blocks to fill the device some 16 times; beyond that threads go on.
  const int64_t most = int64_t{limits(device).multiprocessors} * 8 * 16;
  const auto blocks = static_cast<unsigned>(std::min(ceil_div<int64_t>(steps, kMapThreads), most));
  const Grid grid{blocks, kMapThreads};
  if (aligned) {
    launch(device, grid, map_kernel<N, T, F, X...>, n, f, y, x...);
  } else {
    launch(device, grid, map_kernel<1, T, F, X...>, n, f, y, x...);
  }
}

}  // namespace fastdl::cuda
