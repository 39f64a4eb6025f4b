// Sums over all dimensions but one, bound by memory. Blocks sum parts of a channel, and another
// kernel adds the parts in order.
#include "cuda/channel_sums.h"

#include "cuda/add_blocks.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

constexpr int kWidth = 32, kDepth = 8;  // threads of a block
constexpr int64_t kPart = 2048;         // elements of a channel, at least, for a block

// Elements of a channel count from 0 to outer * inner.
template <typename T>
struct Channels {
  const T* x;
  int64_t channels, inner;

  __device__ Compute<T> get(int64_t channel, int64_t i) const {
    return widen(x[(i / inner * channels + channel) * inner + i % inner]);
  }
};

// inner = 1: 32 channels side by side, 8 elements below each other.
template <typename T>
__global__ void __launch_bounds__(kWidth* kDepth)
    columns_kernel(Compute<T>* parts, Channels<T> x, int64_t size, int64_t part) {
  __shared__ Compute<T> of_threads[kDepth][kWidth];
  const int64_t tiles = ceil_div<int64_t>(x.channels, kWidth);
  const int64_t channel = blockIdx.x % tiles * kWidth + threadIdx.x, p = blockIdx.x / tiles;
  const int64_t end = (p + 1) * part < size ? (p + 1) * part : size;
  Compute<T> sum = 0;
  if (channel < x.channels) {
    for (int64_t i = p * part + threadIdx.y; i < end; i += kDepth) sum += x.get(channel, i);
  }
  of_threads[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || channel >= x.channels) return;
  for (int k = 1; k < kDepth; ++k) sum += of_threads[k][threadIdx.x];
  parts[p * x.channels + channel] = sum;
}

// A block per channel and part.
template <typename T>
__global__ void __launch_bounds__(kWidth* kDepth)
    planes_kernel(Compute<T>* parts, Channels<T> x, int64_t size, int64_t part) {
  const int64_t channel = blockIdx.x % x.channels, p = blockIdx.x / x.channels;
  const int64_t end = (p + 1) * part < size ? (p + 1) * part : size;
  Compute<T> sum = 0;
  for (int64_t i = p * part + threadIdx.x; i < end; i += blockDim.x) sum += x.get(channel, i);
  sum = row_reduce(sum, Sum(), Compute<T>{0});
  if (threadIdx.x == 0) parts[p * x.channels + channel] = sum;
}

}  // namespace

void ChannelSums::sum(const Tensor& out, const Tensor& x, int64_t outer, int64_t channels,
                      int64_t inner) const {
  if (channels == 0) return;
  dispatch(x.dtype, [&]<typename T>() {
    const int64_t size = outer * inner, width = inner == 1 ? kWidth : 1;
    const int64_t tiles = ceil_div<int64_t>(channels, width);
    const int64_t wanted = int64_t{8} * limits(device).multiprocessors / tiles;
    const int64_t count =
        std::clamp<int64_t>(wanted, 1, std::max<int64_t>(ceil_div<int64_t>(size, kPart), 1));
    const int64_t part = ceil_div<int64_t>(size, count);
    const Workspace<Compute<T>> parts(count * channels);
    const Channels<T> from{x.ptr<const T>(), channels, std::max<int64_t>(inner, 1)};
    const auto blocks = static_cast<unsigned>(tiles * count);
    if (inner == 1) {
      launch(device, {blocks, {kWidth, kDepth}}, columns_kernel<T>, parts.data(), from, size, part);
    } else {
      launch(device, {blocks, kWidth * kDepth}, planes_kernel<T>, parts.data(), from, size, part);
    }
    add_blocks(device, out, parts.data(), channels, count, channels);
  });
}

}  // namespace fastdl::cuda
