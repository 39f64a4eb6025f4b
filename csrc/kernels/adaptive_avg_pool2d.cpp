// y[i, j] = the mean of x over rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise;
// backward: dx = the sum of dy / count over the windows that an element lies in.
//
// Windows that are those of an ordinary pool do not come here, but to avg_pool2d. These differ in
// size, so they are taken apart: the rows of a row of windows are added with the lanes along the
// width, and the sums of columns then window by window in double; backward the other way round.
#include "kernels/adaptive_avg_pool2d.h"

#include <string.h>

#include "kernels/pool_rows.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void forward(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows) {
  const AdaptiveAxis &rows = windows.rows, &columns = windows.columns;
  const PoolBands bands(planes, windows.plane() + windows.output(), rows.output);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> sums(columns.size);
    const Workspace<const T*> under(rows.size);
    for (int64_t band = begin; band < end; ++band) {
      const T* from = x + bands.plane(band) * windows.plane();
      for (int64_t r = bands.begin(band); r < bands.end(band); ++r) {
        const int64_t height = rows.end(r) - rows.begin(r);
        for (int64_t k = 0; k < height; ++k) {
          under.data()[k] = from + (rows.begin(r) + k) * columns.size;
        }
        reduce_rows<T>(
            under.data(), height, columns.size, [](Vec<T> v, Vec<T> sum) { return sum + v; },
            [&](int64_t i, int lanes, Vec<T> v) { store(sums.data() + i, v, lanes); });
        T* to = y + bands.plane(band) * windows.output() + r * columns.output;
        for (int64_t c = 0; c < columns.output; ++c) {
          const int64_t left = columns.begin(c), right = columns.end(c);
          double sum = 0;
          for (int64_t w = left; w < right; ++w) sum += static_cast<double>(sums.data()[w]);
          to[c] = static_cast<T>(sum / static_cast<double>(height * (right - left)));
        }
      }
    }
  });
}

template <typename T>
void backward(T* dx, const T* dy, int64_t planes, const AdaptiveWindows& windows) {
  const AdaptiveAxis &rows = windows.rows, &columns = windows.columns;
  const int64_t plane = windows.plane(), width = columns.size;
  const int64_t grain = ceil_div(65536, plane + windows.output());
  parallel_ranges(planes, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> shares(width);  // of the elements of a row in one row of windows
    for (int64_t p = begin; p < end; ++p) {
      memset(dx + p * plane, 0, static_cast<size_t>(plane) * sizeof(T));
      for (int64_t r = 0; r < rows.output; ++r) {
        const T* from = dy + p * windows.output() + r * columns.output;
        const int64_t height = rows.end(r) - rows.begin(r);
        memset(shares.data(), 0, static_cast<size_t>(width) * sizeof(T));
        for (int64_t c = 0; c < columns.output; ++c) {
          const int64_t left = columns.begin(c), right = columns.end(c);
          const T share = from[c] / static_cast<T>(height * (right - left));
          for (int64_t w = left; w < right; ++w) shares.data()[w] += share;
        }
        for (int64_t h = rows.begin(r); h < rows.end(r); ++h) {
          T* to = dx + p * plane + h * width;
          for_each_vec<T>(width, [&](int64_t i, int lanes) {
            store(to + i, load(to + i, lanes) + load(shares.data() + i, lanes), lanes);
          });
        }
      }
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveAvgPool2dKernels, adaptive_avg_pool2d_kernels, forward<T>,
                      backward<T>)

}  // namespace fastdl::FASTDL_ISA
