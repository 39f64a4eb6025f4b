// The second step of a sum over rows: what the blocks of the first left is added in order.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

constexpr int kAddedColumns = 32, kAdders = 32;  // threads of a block

// out[column] = the sum of `blocks` values, `stride` apart, in double.
template <typename P, typename C>
__global__ void __launch_bounds__(kAddedColumns* kAdders)
    add_blocks_kernel(P* out, const C* partial, int64_t columns, int64_t blocks, int64_t stride) {
  __shared__ double of_threads[kAdders * kAddedColumns];
  const int64_t column = int64_t{blockIdx.x} * kAddedColumns + threadIdx.x;
  double sum = 0;
#pragma unroll 4
  for (int64_t block = threadIdx.y; block < blocks; block += kAdders) {
    if (column >= columns) break;
    sum += static_cast<double>(partial[block * stride + column]);
  }
  of_threads[threadIdx.y * kAddedColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int k = 1; k < kAdders; ++k) sum += of_threads[k * kAddedColumns + threadIdx.x];
  out[column] = narrow<P>(static_cast<Compute<P>>(sum));
}

template <typename C>
void add_blocks(const Device& device, const Tensor& out, const C* partial, int64_t columns,
                int64_t blocks, int64_t stride) {
  const Grid grid{static_cast<unsigned>(ceil_div<int64_t>(columns, kAddedColumns)),
                  {kAddedColumns, kAdders}};
  dispatch(out.dtype, [&]<typename P>() {
    launch(device, grid, add_blocks_kernel<P, C>, out.ptr<P>(), partial, columns, blocks, stride);
  });
}

}  // namespace fastdl::cuda
