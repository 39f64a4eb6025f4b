// The backward of max pools by indices: dx[indices[i]] += dy[i] in each plane, whatever windows
// they come from.
//
// A warp has a stretch of dx in shared memory and reads the indices of its plane in order, 32 at
// once; lanes that meet at an element add one after the other. So the sums are those of a loop, the
// same from run to run, without atomics. Where a plane has several stretches, the range of every
// 1024 indices is found first: maxima lie near each other, and most of them are skipped.
#include "cuda/max_pool2d.h"
#include "cuda/numbers.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

constexpr int kWarps = 4;               // of a block
constexpr int kStretchBytes = 8 << 10;  // of a warp
constexpr int kRun = 1024;              // indices
constexpr int kAhead = 4;               // loaded by a lane at once

// Enough blocks; each goes on with the next ones.
unsigned blocks_for(int64_t warps) {
  return static_cast<unsigned>(std::min(ceil_div<int64_t>(warps, kWarps), kMaxBlocks));
}

struct Range {
  int64_t low, high;
};

// The warp of this thread among those of all blocks, and how many there are.
__device__ inline int64_t warp_number() { return int64_t{blockIdx.x} * kWarps + threadIdx.y; }
__device__ inline int64_t warp_count() { return int64_t{gridDim.x} * kWarps; }

__global__ void __launch_bounds__(kWarp* kWarps, 4)
    range_kernel(Range* ranges, const int64_t* __restrict__ indices, int64_t planes,
                 int64_t outputs) {
  const int64_t runs = ceil_div<int64_t>(outputs, kRun);
  for (int64_t i = warp_number(); i < planes * runs; i += warp_count()) {
    const int64_t first = i % runs * kRun, end = min(first + kRun, outputs);
    const int64_t* const of_plane = indices + i / runs * outputs;
    Range range{int64_t{1} << 62, -1};
    for (int64_t k = first + threadIdx.x; k < end; k += kWarp) {
      range.low = min(range.low, of_plane[k]);
      range.high = max(range.high, of_plane[k]);
    }
    range = warp_reduce(range, [](const Range& a, const Range& b) {
      return Range{min(a.low, b.low), max(a.high, b.high)};
    });
    if (threadIdx.x == 0) ranges[i] = range;
  }
}

// ranges is null where a plane is one stretch.
template <typename T>
__global__ void __launch_bounds__(kWarp* kWarps, 4)
    scatter_kernel(T* __restrict__ dx, const T* __restrict__ dy,
                   const int64_t* __restrict__ indices, const Range* __restrict__ ranges,
                   int64_t planes, int64_t plane, int64_t outputs) {
  using C = Compute<T>;
  constexpr int kStretch = kStretchBytes / static_cast<int>(sizeof(C));
  C* const sums = dynamic_shared<C>() + threadIdx.y * kStretch;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stretches = ceil_div<int64_t>(plane, kStretch);
  const int64_t runs = ceil_div<int64_t>(outputs, kRun);
  for (int64_t i = warp_number(); i < planes * stretches; i += warp_count()) {
    const int64_t p = i / stretches, first = i % stretches * kStretch;
    const int size = static_cast<int>(min(int64_t{kStretch}, plane - first));
    for (int k = lane; k < size; k += kWarp) sums[k] = 0;
    __syncwarp();
    for (int64_t run = 0; run < runs; ++run) {
      if (ranges) {
        const Range range = ranges[p * runs + run];
        if (range.high < first || range.low >= first + size) continue;
      }
      const int64_t begin = p * outputs + run * kRun, end = min(begin + kRun, (p + 1) * outputs);
      for (int64_t k = begin; k < end; k += kAhead * kWarp) {
        uint64_t to[kAhead];  // negative ones are too large
        T values[kAhead];
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
          const int64_t at = k + a * kWarp + lane;
          to[a] = at < end ? static_cast<uint64_t>(indices[at]) - first : ~uint64_t{0};
          if (at < end) values[a] = dy[at];
        }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
          const bool here = to[a] < static_cast<uint64_t>(size);
          const int element = here ? static_cast<int>(to[a]) : -1;
          const unsigned below = (1u << lane) - 1;
          const int turn = __popc(__match_any_sync(kAllLanes, element) & below);
          for (int now = 0; __any_sync(kAllLanes, here && turn >= now); ++now) {
            if (here && turn == now) sums[element] += widen(values[a]);
            __syncwarp();
          }
        }
      }
    }
    for (int k = lane; k < size; k += kWarp) dx[p * plane + first + k] = narrow<T>(sums[k]);
    __syncwarp();
  }
}

}  // namespace

void MaxPool2d::scatter(const Tensor& dx, const Tensor& dy, const Tensor& indices) const {
  const int n = dx.ndim();
  const int64_t planes = dx.shape.numel(0, n - 2), plane = dx.shape.numel(n - 2, n);
  const int64_t outputs = dy.shape.numel(n - 2, n), runs = ceil_div<int64_t>(outputs, kRun);
  const int64_t* const positions = indices.ptr<int64_t>();
  dispatch(dx.dtype, [&]<typename T>() {
    constexpr int kStretch = kStretchBytes / static_cast<int>(sizeof(Compute<T>));
    const int64_t stretches = ceil_div<int64_t>(plane, kStretch);
    std::optional<Workspace<Range>> ranges;
    if (stretches > 1) {
      ranges.emplace(planes * runs);
      launch(device, {blocks_for(planes * runs), dim3(kWarp, kWarps)}, range_kernel, ranges->data(),
             positions, planes, outputs);
    }
    launch(device, {blocks_for(planes * stretches), dim3(kWarp, kWarps), kWarps * kStretchBytes},
           scatter_kernel<T>, dx.ptr<T>(), dy.ptr<T>(), positions,
           ranges ? ranges->data() : nullptr, planes, plane, outputs);
  });
}

}  // namespace fastdl::cuda
