// y = the largest element of each window, indices = its position in the plane. Of equal elements
// the first one in the order of rows and columns wins; a NaN beats every number, and a later NaN an
// earlier one. Padding never wins; a window of padding only is -inf with index -1.
//
// A row of x is split by column modulo the stride (pool_rows.h), its taps are reduced with the
// lanes along the output's width, and the rows so reduced, which overlapping windows share, are
// reduced again. Rows come last, so ties and NaN fall out as in the order above. Indices travel in
// the lanes as offsets from the window's first tap, which T holds exactly.
#include "kernels/max_pool2d.h"

#include <math.h>
#include <string.h>

#include "kernels/pool_rows.h"
#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
class Rows {
 public:
  FASTDL_INLINE Rows(const PoolWindows& windows, bool with_indices)
      : windows_(windows),
        width_(windows.columns.output),
        rows_(windows, static_cast<T>(-INFINITY), with_indices ? 2 : 1),
        first_(width_),
        offsets_(width_) {
    for (int64_t o = 0; o < width_; ++o) {
      first_.data()[o] = static_cast<T>(windows.columns.first_tap(o) * windows.columns.dilation);
    }
  }

  // Rows begin..end-1 of the output of one plane.
  FASTDL_INLINE void band(T* y, int64_t* indices, const T* x, int64_t begin, int64_t end) {
    rows_.forget();
    for (int64_t o = begin; o < end; ++o) {
      if (windows_.rows.first_tap(o) >= windows_.rows.end_tap(o)) {
        padding_only(y + o * width_, indices ? indices + o * width_ : nullptr);
      } else if (indices) {
        row_with_indices(y + o * width_, indices + o * width_, x, o);
      } else {
        row(y + o * width_, x, o);
      }
    }
  }

 private:
  FASTDL_INLINE void padding_only(T* y, int64_t* indices) {
    for (int64_t i = 0; i < width_; ++i) y[i] = static_cast<T>(-INFINITY);
    for (int64_t i = 0; indices && i < width_; ++i) indices[i] = -1;
  }

  FASTDL_INLINE void row(T* y, const T* x, int64_t o) {
    const auto reduce = [&](T* to, const T* const* from, int64_t count) {
      reduce_rows<T>(from, count, width_, max_or_nan<T>,
                     [&](int64_t i, int lanes, Vec<T> v) { store(to + i, v, lanes); });
    };
    const T* const* rows = rows_.under(
        o, x, [&](T* row, const T* const* taps) { reduce(row, taps, windows_.columns.kernel); });
    reduce(y, rows, windows_.rows.end_tap(o) - windows_.rows.first_tap(o));
  }

  FASTDL_INLINE void row_with_indices(T* y, int64_t* indices, const T* x, int64_t o) {
    const PoolAxis &rows = windows_.rows, &columns = windows_.columns;
    const T* const* under = rows_.under(
        o, x, [&](T* row, const T* const* taps) { best_columns(row, row + width_, taps); });
    with_constant(rows.end_tap(o) - rows.first_tap(o), [&](auto count) {
      for_each_vec<T>(width_, [&](int64_t i, int lanes) {
        const T* row = under[0] + i;
        Best<T> best{load(row, lanes), load(row + width_, lanes)};
        for (int64_t k = 1; k < count; ++k) {
          row = under[k] + i;
          const Vec<T> below = broadcast(static_cast<T>(k * rows.dilation * columns.size));
          best.meet(load(row, lanes), load(row + width_, lanes) + below);
        }
        store(y + i, best.value, lanes);
        store(offsets_.data() + i, best.offset, lanes);
      });
    });
    const int64_t first = (rows.start(o) + rows.first_tap(o) * rows.dilation) * columns.size;
    for (int64_t i = 0; i < width_; ++i) {
      indices[i] = first + columns.start(i) + static_cast<int32_t>(offsets_.data()[i]);
    }
  }

  FASTDL_INLINE void best_columns(T* values, T* offsets, const T* const* taps) {
    with_constant(windows_.columns.kernel, [&](auto count) {
      for_each_vec<T>(width_, [&](int64_t i, int lanes) {
        Best<T> best{broadcast(static_cast<T>(-INFINITY)), load(first_.data() + i, lanes)};
        for (int64_t j = 0; j < count; ++j) {
          best.meet(load(taps[j] + i, lanes),
                    broadcast(static_cast<T>(j * windows_.columns.dilation)));
        }
        store(values + i, best.value, lanes);
        store(offsets + i, best.offset, lanes);
      });
    });
  }

  const PoolWindows& windows_;
  int64_t width_;
  WindowRows<T> rows_;
  Workspace<T> first_, offsets_;  // of the first tap inside, of the largest element
};

template <typename T>
void forward_rows(T* y, int64_t* indices, const T* x, int64_t planes, const PoolWindows& windows) {
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.output);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    Rows<T> rows(windows, indices != nullptr);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = bands.plane(i), at = plane * windows.output();
      rows.band(y + at, indices ? indices + at : nullptr, x + plane * windows.plane(),
                bands.begin(i), bands.end(i));
    }
  });
}

// The position of the largest element of window (r, c) of the plane x; -1 if that is padding.
template <typename T>
FASTDL_INLINE int64_t argmax(const T* x, const PoolWindows& w, int64_t r, int64_t c) {
  const int64_t top = w.rows.first_tap(r), bottom = w.rows.end_tap(r);
  const int64_t left = w.columns.first_tap(c), right = w.columns.end_tap(c);
  if (top >= bottom || left >= right) return -1;
  const int64_t corner = (w.rows.start(r) + top * w.rows.dilation) * w.columns.size +
                         w.columns.start(c) + left * w.columns.dilation;
  const int64_t below = w.rows.dilation * w.columns.size;
  if (w.columns.dilation == 1) {
    return corner + window_argmax(x + corner, bottom - top, right - left, below);
  }
  int64_t best = corner;
  for (int64_t i = 0; i < bottom - top; ++i) {
    for (int64_t j = 0; j < right - left; ++j) {
      const int64_t at = corner + i * below + j * w.columns.dilation;
      if (x[at] > x[best] || x[at] != x[at]) best = at;
    }
  }
  return best;
}

template <typename T>
void forward_windows(T* y, int64_t* indices, const T* x, int64_t planes,
                     const PoolWindows& windows) {
  const PoolBands bands(planes, windows.plane() + windows.output(), windows.rows.output);
  parallel_ranges(bands.count, bands.grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = bands.plane(i), width = windows.columns.output;
      for (int64_t r = bands.begin(i); r < bands.end(i); ++r) {
        const int64_t at = plane * windows.output() + r * width;
        for (int64_t c = 0; c < width; ++c) {
          const int64_t best = argmax(x + plane * windows.plane(), windows, r, c);
          y[at + c] = best < 0 ? static_cast<T>(-INFINITY) : x[plane * windows.plane() + best];
          if (indices) indices[at + c] = best;
        }
      }
    }
  });
}

FASTDL_INLINE bool all_in_range(const int64_t* indices, int64_t count, int64_t low, int64_t high) {
  const uint64_t span = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  uint64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    bad |= static_cast<uint64_t>(indices[i]) - static_cast<uint64_t>(low) >= span;
  }
  return bad == 0;
}

constexpr int64_t kCleared = 4096;  // elements, so that what is scattered to lies in L1

// A function of its own keeps the pointers in registers; inlined into the parallel region, one is
// loaded again for every element and waits for the stores (15 % slower).
template <typename T>
__attribute__((noinline)) void scatter(T* dx, const T* dy, const int64_t* indices, int64_t planes,
                                       int64_t plane, int64_t outputs) {
  memset(dx, 0, static_cast<size_t>(planes * plane) * sizeof(T));
  for (; planes > 0; --planes, dx += plane, dy += outputs, indices += outputs) {
    for (int64_t i = 0; i < outputs; ++i) {
      if (indices[i] >= 0) dx[indices[i]] += dy[i];
    }
  }
}

template <typename T>
int64_t backward(T* dx, const T* dy, const int64_t* indices, int64_t lowest, int64_t planes,
                 int64_t plane, int64_t outputs) {
  const int64_t cost = plane + 4 * outputs;
  const int64_t grain = ceil_div(65536, cost);
  const int64_t together = ceil_div(kCleared, plane);
  Workspace<int64_t> first_bad(ceil_div(planes, grain));
  parallel_ranges(planes, grain, [&](int64_t begin, int64_t end) {
    first_bad.data()[begin / grain] = -1;
    for (int64_t p = begin; p < end; p += together) {
      const int64_t some = smaller(together, end - p);
      const int64_t* to = indices + p * outputs;
      if (!all_in_range(to, some * outputs, lowest, plane)) {
        first_bad.data()[begin / grain] = p * outputs;
        return;
      }
      scatter(dx + p * plane, dy + p * outputs, to, some, plane, outputs);
    }
  });
  for (int64_t block = 0; block < ceil_div(planes, grain); ++block) {
    int64_t i = first_bad.data()[block];
    if (i < 0) continue;
    while (indices[i] >= lowest && indices[i] < plane) ++i;
    return i;
  }
  return -1;
}

}  // namespace

FASTDL_DEFINE_KERNELS(MaxPool2dKernels, max_pool2d_kernels, forward_rows<T>, forward_windows<T>,
                      backward<T>)

}  // namespace fastdl::FASTDL_ISA
