// dropout: y_i = x_i * (0 or 1 / (1 - p)) by the random word of i, the same as on the CPU; backward
// is the same map of dy.
//
// A counter gives the words of four elements, in registers; nothing but x is read. Bound by memory:
// some 80 instructions for the 32 bytes of four float32.
#include "cuda/dropout.h"

#include "cuda/numbers.h"
#include "cuda/philox.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

// N elements are loaded at once, `kShare` of them computed by a thread.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(T* y, const T* x, int64_t n, fastdl::Dropout dropout) {
  using C = Compute<T>;
  constexpr int kShare = N > 4 ? N : 4;
  const C scale = static_cast<C>(dropout.scale);
  const uint64_t seed = seed_of(dropout.rng);
  const int64_t stride = int64_t{gridDim.x} * kThreads * kShare;
  for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kShare; i < n; i += stride) {
    const bool whole = i + kShare <= n;
    Pack<T, N> packs[kShare / N] = {};
#pragma unroll
    for (int k = 0; k < kShare; ++k) {
      if (whole && k % N == 0) packs[k / N] = *reinterpret_cast<const Pack<T, N>*>(x + i + k);
      if (!whole && i + k < n) packs[k / N].values[k % N] = x[i + k];
    }
#pragma unroll
    for (int k = 0; k < kShare; k += 4) {
      const PhiloxWords random =
          philox(dropout.rng.offset + static_cast<uint64_t>(i + k) / 4, seed);
#pragma unroll
      for (int l = k; l < k + 4; ++l) {
        T& value = packs[l / N].values[l % N];
        value = narrow<T>(widen(value) * (random.words[l - k] >= dropout.threshold ? scale : C{0}));
      }
    }
#pragma unroll
    for (int k = 0; k < kShare; ++k) {
      if (whole && k % N == 0) *reinterpret_cast<Pack<T, N>*>(y + i + k) = packs[k / N];
      if (!whole && i + k < n) y[i + k] = packs[k / N].values[k % N];
    }
  }
}

}  // namespace

void Dropout::copy(const Tensor& y, const Tensor& x) const {
  cuda::copy(device, y.data, x.data, static_cast<size_t>(x.numel()) * dtype_size(x.dtype));
}

void Dropout::dropout(const Tensor& y, const Tensor& x, const fastdl::Dropout& factors) const {
  const int64_t n = x.numel();
  // Enough blocks to fill the device some 16 times; beyond that threads go on.
  const int64_t most = int64_t{limits(device).multiprocessors} * 8 * 16;
  dispatch(x.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    const int64_t blocks = ceil_div<int64_t>(n, kThreads * (N > 4 ? N : 4));
    const Grid grid{static_cast<unsigned>(std::min(blocks, most)), kThreads};
    T *const to = y.ptr<T>(), *const from = x.ptr<T>();
    if (is_aligned(to) && is_aligned(from)) {
      launch(device, grid, dropout_kernel<T, N>, to, from, n, factors);
    } else {
      launch(device, grid, dropout_kernel<T, 1>, to, from, n, factors);
    }
  });
}

}  // namespace fastdl::cuda
