// y[i, j] = the largest x in rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise,
// indices = its position in the plane: of equal elements the first, of several NaN the last.
//
// Windows that are those of an ordinary pool do not come here, but to max_pool2d. These differ in
// size, so they are taken apart: the largest of each column and its row, with the lanes along the
// width, then the largest of the columns of each window, without a branch that depends on x.
#include "kernels/adaptive_max_pool2d.h"

#include "core/buffer_pool.h"
#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kExact = int64_t{1} << 24;  // rows that float32 holds

// The first of the largest in row-major order, or the last NaN, of columns left..right-1.
template <typename T>
FASTDL_INLINE int64_t largest_column(const T* values, const T* rows, int64_t left, int64_t right) {
  int64_t best = left;
  for (int64_t w = left + 1; w < right; ++w) {
    const T v = values[w], m = values[best];
    const bool nan = v != v, had_nan = m != m, above = rows[w] < rows[best];
    const bool wins = (v > m) | ((v == m) & above) | (nan & (!had_nan | !above));
    best = wins ? w : best;
  }
  return best;
}

template <typename T>
void forward(T* y, int64_t* indices, const T* x, int64_t planes, const AdaptiveWindows& windows) {
  const AdaptiveAxis &rows = windows.rows, &columns = windows.columns;
  const PoolBands bands(planes, windows.plane() + windows.output(), rows.output);
  const int64_t width = columns.size;
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> values(width), places(width);  // of each column's largest, its row
    for (int64_t band = begin; band < end; ++band) {
      const T* plane = x + bands.plane(band) * windows.plane();
      for (int64_t r = bands.begin(band); r < bands.end(band); ++r) {
        const int64_t top = rows.begin(r), height = rows.end(r) - top;
        const T* from = plane + top * width;
        for_each_vec<T>(width, [&](int64_t i, int lanes) {
          Best<T> best{load(from + i, lanes), zero<T>()};
          for (int64_t k = 1; k < height; ++k) {
            best.meet(load(from + k * width + i, lanes), broadcast(static_cast<T>(k)));
          }
          store(values.data() + i, best.value, lanes);
          store(places.data() + i, best.offset, lanes);
        });
        const int64_t at = bands.plane(band) * windows.output() + r * columns.output;
        for (int64_t c = 0; c < columns.output; ++c) {
          const int64_t best =
              largest_column(values.data(), places.data(), columns.begin(c), columns.end(c));
          y[at + c] = values.data()[best];
          if (indices) {
            indices[at + c] = (top + static_cast<int64_t>(places.data()[best])) * width + best;
          }
        }
      }
    }
  });
}

// Window after window with the lanes along its width, for planes with more rows than T can count.
template <typename T>
void forward_tall(T* y, int64_t* indices, const T* x, int64_t planes,
                  const AdaptiveWindows& windows) {
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

template <typename T>
void forward_any(T* y, int64_t* indices, const T* x, int64_t planes,
                 const AdaptiveWindows& windows) {
  (windows.rows.size < kExact ? forward<T> : forward_tall<T>)(y, indices, x, planes, windows);
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveMaxPool2dKernels, adaptive_max_pool2d_kernels, forward_any<T>)

}  // namespace fastdl::FASTDL_ISA
