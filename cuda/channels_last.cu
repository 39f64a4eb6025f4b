// Images between the two layouts, which are matrices of channels and pixels: a transposition.
//
// Through shared memory, a tile at a time, so that lanes lie along the rows of both. Bound by
// memory.
#include "cuda/channels_last.h"

#include "cuda/numbers.h"

namespace fastdl::cuda {
namespace {

constexpr int kTile = 32, kDepth = 8;  // threads of a block

template <typename T>
__global__ void __launch_bounds__(kTile* kDepth)
    transpose_kernel(T* __restrict__ y, const T* __restrict__ x, int64_t batch, int64_t rows,
                     int64_t columns) {
  T* const tile = dynamic_shared<T>();  // a column more than it holds: no conflicts of banks
  const int64_t across = ceil_div<int64_t>(columns, kTile);
  const int64_t down = ceil_div<int64_t>(rows, kTile);
  for (int64_t i = blockIdx.x; i < batch * down * across; i += gridDim.x) {
    const int64_t image = i / (down * across) * rows * columns;
    const int64_t row = i / across % down * kTile, column = i % across * kTile;
    for (int k = threadIdx.y; k < kTile; k += kDepth) {
      if (row + k < rows && column + threadIdx.x < columns) {
        tile[k * (kTile + 1) + threadIdx.x] = x[image + (row + k) * columns + column + threadIdx.x];
      }
    }
    __syncthreads();
    for (int k = threadIdx.y; k < kTile; k += kDepth) {
      if (column + k < columns && row + threadIdx.x < rows) {
        y[image + (column + k) * rows + row + threadIdx.x] = tile[threadIdx.x * (kTile + 1) + k];
      }
    }
    __syncthreads();  // before the next tile comes there
  }
}

}  // namespace

void ChannelsLast::transpose(const Tensor& y, const Tensor& x, int64_t batch, int64_t rows,
                             int64_t columns) const {
  const int64_t tiles = batch * ceil_div<int64_t>(rows, kTile) * ceil_div<int64_t>(columns, kTile);
  dispatch(x.dtype, [&]<typename T>() {
    launch(device,
           {static_cast<unsigned>(std::min(tiles, kMaxBlocks)), dim3(kTile, kDepth),
            kTile * (kTile + 1) * sizeof(T)},
           transpose_kernel<T>, y.ptr<T>(), x.ptr<T>(), batch, rows, columns);
  });
}

}  // namespace fastdl::cuda
