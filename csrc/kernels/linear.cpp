// The gradient of a bias: the sum of the rows of dy. Blocks of rows are summed in the order they
// lie in memory, 64 rows at a time, then the sums of the blocks one after the other. The products
// themselves are those of kernels/matmul.cpp.
#include "kernels/linear.h"

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/reduce.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 64 * 1024;

// sum (features) = the sum of `rows` rows, at most 64.
template <typename T>
void sum_rows(T* sum, const T* dy, int64_t rows, int64_t features) {
  memcpy(sum, dy, static_cast<size_t>(features) * sizeof(T));
  int64_t r = 1;
  for (; r + 4 <= rows; r += 4) {
    const T* row = dy + r * features;
    for_each_vec<T>(features, [&](int64_t i, int lanes) {
      const Vec<T> left = load(row + i, lanes) + load(row + features + i, lanes);
      const T* next = row + 2 * features + i;
      const Vec<T> right = load(next, lanes) + load(next + features, lanes);
      store(sum + i, load(sum + i, lanes) + (left + right), lanes);
    });
  }
  for (; r < rows; ++r) {
    const T* row = dy + r * features;
    for_each_vec<T>(features, [&](int64_t i, int lanes) {
      store(sum + i, load(sum + i, lanes) + load(row + i, lanes), lanes);
    });
  }
}

template <typename T>
void bias_backward(T* dbias, const T* dy, int64_t rows, int64_t features) {
  const int64_t tiles = ceil_div(rows, 64);
  const Workspace<T> sums(tiles * features);
  const int64_t grain = ceil_div(kGrain, 64 * features);
  parallel_ranges(tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t left = rows - tile * 64;
      sum_rows(sums.data() + tile * features, dy + tile * 64 * features, left < 64 ? left : 64,
               features);
    }
  });
  for_each_vec<T>(features, [&](int64_t i, int lanes) {
    const Vec<T> sum = blocked_lane_sum<T>(
        tiles, [&](int64_t tile) { return load(sums.data() + tile * features + i, lanes); });
    store(dbias + i, sum, lanes);
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(LinearKernels, linear_kernels, bias_backward<T>)

}  // namespace fastdl::FASTDL_ISA
