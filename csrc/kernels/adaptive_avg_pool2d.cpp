// y[i, j] = the mean of x over rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise;
// backward: dx = the sum of dy / count over the windows that an element lies in. Those are a window
// of dy again, floor(h Ho / H) to ceil((h + 1) Ho / H): both directions are sums over adaptive
// windows, with the sizes of x and y exchanged.
//
// Both take the windows apart (adaptive_rows.h), so that y's rows are those transposed: forward
// first down, then across, backward first across, then down.
#include "kernels/adaptive_avg_pool2d.h"

#include "kernels/adaptive_rows.h"
#include "kernels/window_sum.h"

namespace fastdl::FASTDL_ISA {
namespace {

// The sum of `height` rows, in groups of 16, to keep the error of long ones small.
template <typename T>
FASTDL_INLINE Vec<T> sum_down(const T* x, int64_t height, int64_t pitch, int lanes) {
  Vec<T> total = load(x, lanes);
  int64_t h = 1;
#pragma GCC unroll 1
  for (const int64_t end = smaller(height, 16); h < end; ++h) total += load(x += pitch, lanes);
  while (__builtin_expect(h < height, false)) {
    Vec<T> group = load(x += pitch, lanes);
    const int64_t end = smaller(height, h + 16);
#pragma GCC unroll 1
    for (++h; h < end; ++h) group += load(x += pitch, lanes);
    total += group;
  }
  return total;
}

// The sums of the windows first..end-1 of rows that lie in lanes, from the first's column on.
template <typename T>
FASTDL_INLINE void sum_across(T* sums, const T* lanes, const AdaptiveBounds& columns, int64_t first,
                              int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  for (int64_t o = first; o < end; ++o) {
    const T* from = lanes + (columns.begin(o) - columns.begin(first)) * kLanes;
    Vec<T> sum = load(from);
    for (int64_t w = 1; w < columns.length(o); ++w) sum += load(from + w * kLanes);
    store(sums + (o - first) * kLanes, sum);
  }
}

// The number of elements of each window: its height times its width.
template <typename T>
class Counts {
 public:
  FASTDL_INLINE Counts(const AdaptiveBounds& rows, int64_t rows_per_plane,
                       const AdaptiveBounds& columns)
      : columns_(columns), period_(rows_per_plane), heights_(period_ + Vec<T>::lanes) {
    for (int64_t i = 0; i < period_ + Vec<T>::lanes; ++i) {
      heights_.data()[i] = static_cast<T>(rows.length(i % period_));
    }
  }
  // Divides windows first..end-1 of the rows of windows in lanes; the first of them is row `row`.
  FASTDL_INLINE void divide(T* lanes, int64_t row, int64_t first, int64_t end) const {
    const Vec<T> height = load(heights_.data() + row % period_);
    for (int64_t o = first; o < end; ++o, lanes += Vec<T>::lanes) {
      const Vec<T> count = height * broadcast(static_cast<T>(columns_.length(o)));
      store(lanes, load(lanes) / count);
    }
  }

 private:
  const AdaptiveBounds& columns_;
  int64_t period_;
  Workspace<T> heights_;  // of one plane's rows and those that follow in the next
};

// What the threads share. Blocks get it by value: vectors may alias anything, so that with each one
// stored the compiler would load it again.
template <typename T>
struct Problem {
  AdaptiveWindows windows;
  const AdaptiveBounds *rows, *columns;  // of the sums
  const Counts<T>* counts;
};

template <typename T>
FASTDL_INLINE void forward_groups(T* y, const T* x, const Problem<T> p, const LaneGroups groups,
                                  int64_t begin, int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t width = p.windows.columns.output, x_width = p.windows.columns.size;
  const int64_t size = round_up(p.columns->band_width(), kLanes) * kLanes;
  const Workspace<T> scratch(2 * size);
  T *lanes = scratch.data(), *sums = lanes + size;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = groups.first(group), count = groups.size(group);
    const GroupRows<T> under(groups, group, x, *p.rows, p.windows);
    for (int64_t c = 0, c_end; c < width; c = c_end) {
      c_end = p.columns->band_end(c);
      const int64_t left = p.columns->begin(c), right = p.columns->end(c_end - 1);
      rows_to_lanes(lanes, count, right - left, [&](int i, int64_t w, int n) {
        return sum_down(under.x[i] + left + w, under.height[i], x_width, n);
      });
      sum_across(sums, lanes, *p.columns, c, c_end);
      p.counts->divide(sums, first, c, c_end);
      lanes_to_rows(y + first * width + c, width, count, c_end - c, sums);
    }
  }
}

template <typename T>
void forward_rows(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows) {
  const AdaptiveBounds rows(windows.rows), columns(windows.columns);
  const Counts<T> counts(rows, windows.rows.output, columns);
  const LaneGroups groups(planes, windows, Vec<T>::lanes);
  parallel_ranges(groups.count, groups.grain, [&](int64_t begin, int64_t end) {
    forward_groups(y, x, Problem<T>{windows, &rows, &columns, &counts}, groups, begin, end);
  });
}

template <typename T>
void forward_windows(T* y, const T* x, int64_t planes, const AdaptiveWindows& windows) {
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
FASTDL_INLINE void backward_bands(T* dx, const T* dy, const Problem<T> p, const PoolBands bands,
                                  int64_t begin, int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t height = p.windows.rows.output, width = p.windows.columns.output;
  const int64_t x_width = p.windows.columns.size, pitch = round_up(x_width, kLanes);
  // Planes that are whole share the lanes, as many of them as have 16 KB of shares.
  const bool whole = bands.bands_per_plane == 1;
  const int64_t together = whole ? larger(1, 4096 / (height * pitch)) : 1;
  const int64_t held =
      whole ? together * height : bands.rows_per_band * height / p.windows.rows.size + 2;
  const int64_t size = round_up(p.columns->band_width(), kLanes) * kLanes;
  const Workspace<T> scratch(2 * size + held * pitch);
  T *lanes = scratch.data(), *sums = lanes + size, *shares = sums + size;
  for (int64_t band = begin; band < end; band += together) {
    const int64_t last = smaller(band + together, end) - 1;
    const int64_t first_row = bands.plane(band) * height + p.rows->begin(bands.begin(band));
    const int64_t end_row = bands.plane(last) * height + p.rows->end(bands.end(last) - 1);
    for (int64_t row = first_row; row < end_row; row += kLanes) {
      const int64_t count = smaller(kLanes, end_row - row);
      for (int64_t w = 0, w_end; w < x_width; w = w_end) {
        w_end = p.columns->band_end(w);
        const int64_t left = p.columns->begin(w), right = p.columns->end(w_end - 1);
        const T* from = dy + row * width + left;
        rows_to_lanes(lanes, count, right - left,
                      [&](int i, int64_t o, int n) { return load(from + i * width + o, n); });
        p.counts->divide(lanes, row, left, right);
        sum_across(sums, lanes, *p.columns, w, w_end);
        lanes_to_rows(shares + (row - first_row) * pitch + w, pitch, count, w_end - w, sums);
      }
    }
    for_each_vec<T>(x_width, [&](int64_t w, int n) {
      for (int64_t b = band; b <= last; ++b) {
        const int64_t plane = bands.plane(b), bottom = bands.end(b);
        const T* from = shares + (plane * height - first_row) * pitch + w;
        T* to = dx + plane * p.windows.plane() + w;
        for (int64_t h = bands.begin(b); h < bottom; ++h) {
          const Vec<T> sum =
              sum_down(from + p.rows->begin(h) * pitch, p.rows->length(h), pitch, kLanes);
          store(to + h * x_width, sum, n);
        }
      }
    });
  }
}

template <typename T>
void backward(T* dx, const T* dy, int64_t planes, const AdaptiveWindows& windows) {
  const AdaptiveBounds rows(windows.rows), columns(windows.columns);
  const Counts<T> counts(rows, windows.rows.output, columns);
  const AdaptiveBounds over_rows({windows.rows.output, windows.rows.size});
  const AdaptiveBounds over_columns({windows.columns.output, windows.columns.size});
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.size);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    backward_bands(dx, dy, Problem<T>{windows, &over_rows, &over_columns, &counts}, bands, begin,
                   end);
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveAvgPool2dKernels, adaptive_avg_pool2d_kernels, forward_rows<T>,
                      forward_windows<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
