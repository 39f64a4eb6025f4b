// y = the sum of each window, where it lies inside x, divided by a count of its elements;
// backward: dx = the sum of dy / count over the windows that an element lies in.
//
// Forward, as in max_pool2d: a row of x is split by column modulo the stride, its taps are added
// with the lanes along the output's width, then the rows so reduced are. Backward the other way
// round, and as a gather, so that each row of dx is written once: a row of dy / count is spread to
// the columns of one remainder modulo the stride after the other, and the rows so spread are added.
#include "kernels/avg_pool2d.h"

#include <string.h>

#include "kernels/pool_divisors.h"
#include "kernels/pool_rows.h"
#include "kernels/window_sum.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
FASTDL_INLINE Vec<T> plus(Vec<T> v, Vec<T> sum) {
  return sum + v;
}

template <typename T>
void forward_rows(T* y, const T* x, int64_t planes, const PoolWindows& windows,
                  AvgPoolDivisor divisor) {
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.output);
  const int64_t width = windows.columns.output;
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Divisors<T> divisors(windows, divisor);
    WindowRows<T> rows(windows, T(0));
    for (int64_t band = begin; band < end; ++band) {
      rows.forget();
      const T* plane = x + bands.plane(band) * windows.plane();
      for (int64_t r = bands.begin(band); r < bands.end(band); ++r) {
        const T* const* under = rows.under(r, plane, [&](T* row, const T* const* taps) {
          reduce_rows<T>(taps, windows.columns.kernel, width, plus<T>,
                         [&](int64_t i, int lanes, Vec<T> v) { store(row + i, v, lanes); });
        });
        T* to = y + bands.plane(band) * windows.output() + r * width;
        const Vec<T> of_row = broadcast(divisors.of_row(r));
        reduce_rows<T>(under, windows.rows.end_tap(r) - windows.rows.first_tap(r), width, plus<T>,
                       [&](int64_t i, int lanes, Vec<T> sum) {
                         const Vec<T> of_columns = load(divisors.of_columns() + i, lanes);
                         store(to + i, sum / (of_row * of_columns), lanes);
                       });
      }
    }
  });
}

// One window, the plane itself, of few enough elements to sum them in T.
template <typename T>
bool is_one_small_plane(const PoolWindows& w) {
  return w.output() == 1 && w.rows.padding == 0 && w.columns.padding == 0 &&
         w.rows.kernel == w.rows.size && w.columns.kernel == w.columns.size &&
         w.plane() <= 64 * Vec<T>::lanes;
}

constexpr int64_t kPlanesBlock = 65536;  // elements of small planes: some 10 us

template <typename T>
void average_planes(T* y, const T* x, int64_t planes, int64_t plane, T divisor) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t grain = ceil_div(kPlanesBlock, plane * kLanes) * kLanes;
  // By value, and each sum a variable: what vectors stored might alias is loaded again after each.
  parallel_ranges(planes, grain, [=](int64_t begin, int64_t end) {
    for_each_vec<T>(end - begin, [=](int64_t first, int lanes) FASTDL_INLINE_LAMBDA {
      Vec<T> sums[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        Vec<T> sum = zero<T>();
        const T* from = x + (begin + first + i) * plane;
        if (i < lanes) for_each_vec<T>(plane, [&](int64_t k, int n) { sum += load(from + k, n); });
        sums[i] = sum;
      }
      store(y + begin + first, lane_sums<T>(sums) / broadcast(divisor), lanes);
    });
  });
}

template <typename T>
void spread_planes(T* dx, const T* dy, int64_t planes, int64_t plane, T divisor) {
  parallel_ranges(planes, ceil_div(kPlanesBlock, plane), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const Vec<T> share = broadcast(dy[p] / divisor);
      for_each_vec<T>(plane, [&](int64_t i, int n) { store(dx + p * plane + i, share, n); });
    }
  });
}

template <typename T>
void forward_windows(T* y, const T* x, int64_t planes, const PoolWindows& windows,
                     AvgPoolDivisor divisor) {
  const PoolAxis &rows = windows.rows, &columns = windows.columns;
  if (is_one_small_plane<T>(windows)) {
    const int64_t count = divisor.divisor ? divisor.divisor : windows.plane();
    return average_planes(y, x, planes, windows.plane(), static_cast<T>(count));
  }
  const PoolBands bands(planes, windows.plane() + windows.output(), rows.output);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Divisors<T> divisors(windows, divisor);
    for (int64_t band = begin; band < end; ++band) {
      const T* plane = x + bands.plane(band) * windows.plane();
      for (int64_t r = bands.begin(band); r < bands.end(band); ++r) {
        const int64_t top = rows.start(r) + rows.first_tap(r);
        const int64_t height = rows.end_tap(r) - rows.first_tap(r);
        T* to = y + bands.plane(band) * windows.output() + r * columns.output;
        for (int64_t c = 0; c < columns.output; ++c) {
          const int64_t left = columns.start(c) + columns.first_tap(c);
          const double sum = window_sum(plane + top * columns.size + left, height,
                                        columns.end_tap(c) - columns.first_tap(c), columns.size);
          to[c] = static_cast<T>(sum / (divisors.of_row(r) * divisors.of_columns()[c]));
        }
      }
    }
  });
}

// Row of dy / count -> row of dx, for windows that have but this row.
template <typename T>
class SpreadRow {
 public:
  FASTDL_INLINE explicit SpreadRow(const PoolAxis& axis)
      : axis_(axis),
        before_((axis.kernel - 1) / axis.stride),
        length_(before_ + longest(axis) + 2 * Vec<T>::lanes),
        shares_(length_),
        remainder_length_(axis.size / axis.stride + 1 + Vec<T>::lanes),
        remainders_(axis.stride * remainder_length_),
        windows_(before_ + 1) {
    memset(shares_.data(), 0, static_cast<size_t>(length_) * sizeof(T));
  }

  // Where the row of dy / count goes.
  FASTDL_INLINE T* shares() { return shares_.data() + before_; }

  FASTDL_INLINE void spread(T* dx) {
    for (int64_t first = 0; first < axis_.stride; ++first) {
      T* sums = axis_.stride == 1 ? dx : remainders_.data() + first * remainder_length_;
      add_windows(sums, first);
    }
    if (axis_.stride == 2) {
      interleave(dx);
    } else if (axis_.stride > 2) {
      for (int64_t i = 0; i < axis_.size; ++i) {
        dx[i] = remainders_.data()[i % axis_.stride * remainder_length_ + i / axis_.stride];
      }
    }
  }

 private:
  static FASTDL_INLINE int64_t longest(const PoolAxis& axis) {
    const int64_t read = (axis.size + axis.padding) / axis.stride + 1;
    return axis.output < read ? read : axis.output;
  }

  // Columns first, first + stride, ...: tap `tap` of window q is there, and the taps a stride apart
  // of the windows before it.
  FASTDL_INLINE void add_windows(T* sums, int64_t first) {
    const int64_t q = (first + axis_.padding) / axis_.stride;
    const int64_t tap = (first + axis_.padding) % axis_.stride;
    const int64_t count = tap < axis_.kernel ? (axis_.kernel - 1 - tap) / axis_.stride + 1 : 0;
    const int64_t length = first < axis_.size ? (axis_.size - 1 - first) / axis_.stride + 1 : 0;
    if (count == 0) return static_cast<void>(memset(sums, 0, length * sizeof(T)));
    for (int64_t t = 0; t < count; ++t) windows_.data()[t] = shares() + q - t;
    reduce_rows<T>(windows_.data(), count, length, plus<T>,
                   [&](int64_t i, int lanes, Vec<T> v) { store(sums + i, v, lanes); });
  }

  FASTDL_INLINE void interleave(T* dx) {
    constexpr int kLanes = Vec<T>::lanes;
    const T *even = remainders_.data(), *odd = even + remainder_length_;
    for (int64_t i = 0; i < axis_.size; i += 2 * kLanes) {
      const Vec<T> a = load(even + i / 2), b = load(odd + i / 2);
      const int64_t left = axis_.size - i;
      store(dx + i, interleave_low(a, b), static_cast<int>(left < kLanes ? left : kLanes));
      if (left <= kLanes) break;
      const int64_t more = left - kLanes;
      store(dx + i + kLanes, interleave_high(a, b),
            static_cast<int>(more < kLanes ? more : kLanes));
    }
  }

  PoolAxis axis_;
  int64_t before_, length_;
  Workspace<T> shares_;  // between zeros
  int64_t remainder_length_;
  Workspace<T> remainders_;
  Workspace<const T*> windows_;
};

template <typename T>
void backward_rows(T* dx, const T* dy, int64_t planes, const PoolWindows& windows,
                   AvgPoolDivisor divisor) {
  const PoolAxis& rows = windows.rows;
  const int64_t width = windows.columns.size, outputs = windows.columns.output;
  const int64_t overlap = (rows.kernel - 1) / rows.stride + 1;
  const int64_t held = overlap < rows.output ? overlap : rows.output;
  const PoolBands bands(planes, windows.plane() + windows.output(), rows.size);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    const Divisors<T> divisors(windows, divisor);
    SpreadRow<T> spread(windows.columns);
    RowRing<T> ring(held, width);
    Workspace<const T*> over(held);  // the rows of windows over a row of dx
    for (int64_t band = begin; band < end; ++band) {
      ring.forget();
      for (int64_t r = bands.begin(band); r < bands.end(band); ++r) {
        const int64_t below = r + rows.padding - rows.kernel + 1;
        const int64_t first = below > 0 ? ceil_div(below, rows.stride) : 0;
        const int64_t reached = (r + rows.padding) / rows.stride;
        const int64_t last = reached < rows.output ? reached : rows.output - 1;
        for (int64_t o = first; o <= last; ++o) {
          over.data()[o - first] = ring.row(o, [&](T* row) {
            const T* from = dy + bands.plane(band) * windows.output() + o * outputs;
            const Vec<T> of_row = broadcast(divisors.of_row(o));
            for_each_vec<T>(outputs, [&](int64_t i, int lanes) {
              const Vec<T> count = of_row * load(divisors.of_columns() + i, lanes);
              store(spread.shares() + i, load(from + i, lanes) / count, lanes);
            });
            spread.spread(row);
          });
        }
        T* to = dx + bands.plane(band) * windows.plane() + r * width;
        if (first > last) {
          memset(to, 0, static_cast<size_t>(width) * sizeof(T));
        } else {
          reduce_rows<T>(over.data(), last - first + 1, width, plus<T>,
                         [&](int64_t i, int lanes, Vec<T> v) { store(to + i, v, lanes); });
        }
      }
    }
  });
}

template <typename T>
void backward_windows(T* dx, const T* dy, int64_t planes, const PoolWindows& windows,
                      AvgPoolDivisor divisor) {
  const PoolAxis &rows = windows.rows, &columns = windows.columns;
  if (is_one_small_plane<T>(windows)) {
    const int64_t count = divisor.divisor ? divisor.divisor : windows.plane();
    return spread_planes(dx, dy, planes, windows.plane(), static_cast<T>(count));
  }
  const int64_t grain = ceil_div(65536, windows.plane() + windows.output());
  parallel_ranges(planes, grain, [&](int64_t begin, int64_t end) {
    const Divisors<T> divisors(windows, divisor);
    for (int64_t p = begin; p < end; ++p) {
      T* plane = dx + p * windows.plane();
      const T* from = dy + p * windows.output();
      memset(plane, 0, static_cast<size_t>(windows.plane()) * sizeof(T));
      for (int64_t r = 0; r < rows.output; ++r) {
        const int64_t top = rows.start(r) + rows.first_tap(r);
        const int64_t height = rows.end_tap(r) - rows.first_tap(r);
        for (int64_t c = 0; c < columns.output; ++c) {
          const int64_t left = columns.start(c) + columns.first_tap(c);
          const T count = divisors.of_row(r) * divisors.of_columns()[c];
          add_to_window(plane + top * columns.size + left, height,
                        columns.end_tap(c) - columns.first_tap(c), columns.size,
                        from[r * columns.output + c] / count);
        }
      }
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AvgPool2dKernels, avg_pool2d_kernels, forward_rows<T>, forward_windows<T>,
                      backward_rows<T>, backward_windows<T>)

}  // namespace fastdl::FASTDL_ISA
