// y[i, j] = the mean of x over rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise;
// backward: dx = the sum of dy / count over the windows that an element lies in. Window after
// window with the lanes along its width. Windows that tile the plane do not come here, but to
// avg_pool2d.
#include "kernels/adaptive_avg_pool2d.h"

#include <string.h>

#include "kernels/window_sum.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void forward(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows) {
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.output);
  const int64_t width = windows.columns.size;
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = x + bands.plane(i) * windows.plane();
      T* to = y + bands.plane(i) * windows.output();
      windows.for_each(bands.begin(i), bands.end(i),
                       [&](int64_t o, int64_t top, int64_t left, int64_t rows, int64_t columns) {
                         const double sum =
                             window_sum(from + top * width + left, rows, columns, width);
                         to[o] = static_cast<T>(sum / static_cast<double>(rows * columns));
                       });
    }
  });
}

template <typename T>
void backward(T* dx, const T* dy, int64_t planes, const AdaptiveWindows& windows) {
  const int64_t plane = windows.plane(), width = windows.columns.size;
  parallel_ranges(planes, ceil_div(65536, plane + windows.output()),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t p = begin; p < end; ++p) {
                      const T* from = dy + p * windows.output();
                      T* to = dx + p * plane;
                      memset(to, 0, static_cast<size_t>(plane) * sizeof(T));
                      windows.for_each(
                          0, windows.rows.output,
                          [&](int64_t o, int64_t top, int64_t left, int64_t rows, int64_t columns) {
                            add_to_window(to + top * width + left, rows, columns, width,
                                          from[o] / static_cast<T>(rows * columns));
                          });
                    }
                  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveAvgPool2dKernels, adaptive_avg_pool2d_kernels, forward<T>,
                      backward<T>)

}  // namespace fastdl::FASTDL_ISA
