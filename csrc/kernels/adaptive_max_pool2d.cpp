// y[i, j] = the largest x in rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise,
// indices = its position in the plane: of equal elements the first, of several NaN the last. Window
// after window with the lanes along its width. Windows that tile the plane do not come here, but to
// max_pool2d.
#include "kernels/adaptive_max_pool2d.h"

#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void forward(T* y, int64_t* indices, const T* x, int64_t planes, const AdaptiveWindows& windows) {
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.output);
  const int64_t width = windows.columns.size;
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* from = x + bands.plane(i) * windows.plane();
      const int64_t to = bands.plane(i) * windows.output();
      windows.for_each(bands.begin(i), bands.end(i),
                       [&](int64_t o, int64_t top, int64_t left, int64_t rows, int64_t columns) {
                         const int64_t corner = top * width + left;
                         const int64_t best =
                             corner + window_argmax(from + corner, rows, columns, width);
                         y[to + o] = from[best];
                         if (indices) indices[to + o] = best;
                       });
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveMaxPool2dKernels, adaptive_max_pool2d_kernels, forward<T>)

}  // namespace fastdl::FASTDL_ISA
