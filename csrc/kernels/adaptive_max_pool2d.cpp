// y[i, j] = the largest x in rows floor(i H / Ho) to ceil((i + 1) H / Ho) and columns likewise,
// indices = its position in the plane: of equal elements the first, of several NaN the last.
//
// Narrow windows are taken apart (adaptive_rows.h), first down, then across; wide ones, and runs of
// whole rows, are done `lanes` at a time with the lanes along the window, and then the lanes of all
// of them in a tree. Positions travel in T, which holds them exactly, and decide between equals.
#include "kernels/adaptive_max_pool2d.h"

#include "kernels/adaptive_rows.h"
#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

// Of two, in whichever order, the one that reading row by row would have kept.
template <typename T>
FASTDL_INLINE Best<T> better(const Best<T>& a, const Best<T>& b) {
  const Mask<T> earlier = b.offset < a.offset;
  const Mask<T> nan = is_nan(b.value) & ~(is_nan(a.value) & earlier);
  const Mask<T> wins = (b.value > a.value) | ((b.value == a.value) & earlier) | nan;
  return {select(wins, b.value, a.value), select(wins, b.offset, a.offset)};
}

template <typename T>
FASTDL_INLINE Vec<T> positions_from(int64_t first) {
  constexpr int kLanes = Vec<T>::lanes;
  T lane[kLanes];
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<T>(i);
  return load(lane) + broadcast(static_cast<T>(first));
}

template <typename T>
FASTDL_INLINE void write_positions(int64_t* indices, const T* positions, int64_t count) {
  for (int64_t i = 0; i < count; ++i) indices[i] = static_cast<int32_t>(positions[i]);
}

// The best in each column of `height` rows; the first element is at position `first`.
template <typename T>
FASTDL_INLINE Best<T> best_down(const T* x, int64_t first, int64_t height, int64_t pitch,
                                int lanes) {
  Best<T> best{load(x, lanes), positions_from<T>(first)};
  const Vec<T> step = broadcast(static_cast<T>(pitch));
  Vec<T> position = best.offset;
#pragma GCC unroll 1
  for (int64_t h = 1; h < height; ++h) {
    position += step;
    best.meet(load(x += pitch, lanes), position);
  }
  return best;
}

template <typename T>
FASTDL_INLINE void best_across(T* values, T* positions, const T* from, const T* from_positions,
                               const AdaptiveBounds& columns, int64_t first, int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  for (int64_t o = first; o < end; ++o) {
    int64_t at = (columns.begin(o) - columns.begin(first)) * kLanes;
    Best<T> best{load(from + at), load(from_positions + at)};
    for (int64_t w = 1; w < columns.length(o); ++w) {
      at += kLanes;
      best = better(best, Best<T>{load(from + at), load(from_positions + at)});
    }
    store(values + (o - first) * kLanes, best.value);
    store(positions + (o - first) * kLanes, best.offset);
  }
}

template <typename T>
FASTDL_INLINE void forward_groups(T* y, int64_t* indices, const T* x, const AdaptiveWindows windows,
                                  const AdaptiveBounds& rows, const AdaptiveBounds& columns,
                                  const LaneGroups groups, int64_t begin, int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t width = windows.columns.output, x_width = windows.columns.size;
  const int64_t size = round_up(columns.band_width(), kLanes) * kLanes;
  const Workspace<T> scratch(4 * size);
  T *lanes = scratch.data(), *lane_positions = lanes + size;
  T *best = lanes + 2 * size, *positions = lanes + 3 * size;
  for (int64_t group = begin; group < end; ++group) {
    const int64_t first = groups.first(group) * width, count = groups.size(group);
    const GroupRows<T> under(groups, group, x, rows, windows);
    for (int64_t c = 0, c_end; c < width; c = c_end) {
      c_end = columns.band_end(c);
      const int64_t left = columns.begin(c), right = columns.end(c_end - 1), n = c_end - c;
      for_each_vec<T>(right - left, [&](int64_t w, int some) {
        Vec<T> v[kLanes], at[kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          if (i >= count) {
            v[i] = at[i] = zero<T>();
            continue;
          }
          const Best<T> found = best_down(under.x[i] + left + w, under.top[i] * x_width + left + w,
                                          under.height[i], x_width, some);
          v[i] = found.value;
          at[i] = found.offset;
        }
        interleave(v);
        interleave(at);
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
          store(lanes + (w + i) * kLanes, v[i]);
          store(lane_positions + (w + i) * kLanes, at[i]);
        }
      });
      best_across(best, positions, lanes, lane_positions, columns, c, c_end);
      lanes_to_rows(y + first + c, width, count, n, best);
      if (!indices) continue;
      lanes_to_rows(lanes, n, count, n, positions);
      if (n == width) {
        write_positions(indices + first, lanes, count * n);
      } else {
        for (int64_t i = 0; i < count; ++i) {
          write_positions(indices + first + i * width + c, lanes + i * n, n);
        }
      }
    }
  }
}

template <typename T>
void forward_rows(T* y, int64_t* indices, const T* x, int64_t planes,
                  const AdaptiveWindows& windows) {
  const AdaptiveBounds rows(windows.rows), columns(windows.columns);
  const LaneGroups groups(planes, windows, Vec<T>::lanes);
  parallel_ranges(groups.count, groups.grain, [&](int64_t begin, int64_t end) {
    forward_groups(y, indices, x, windows, rows, columns, groups, begin, end);
  });
}

// Lane i of the result is the best of the lanes of best[i].
template <typename T>
FASTDL_INLINE Best<T> best_lanes(Best<T> (&best)[Vec<T>::lanes]) {
#pragma GCC unroll 4
  for (int n = Vec<T>::lanes / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      const Best<T>&a = best[i], &b = best[i + n];
      best[i] = better<T>({interleave_low(a.value, b.value), interleave_low(a.offset, b.offset)},
                          {interleave_high(a.value, b.value), interleave_high(a.offset, b.offset)});
    }
  }
  return best[0];
}

// The best in each lane of the window at x; offsets count from there.
template <typename T>
FASTDL_INLINE Best<T> best_of_window(const T* x, int64_t rows, int64_t columns, int64_t width) {
  const Vec<T> lowest = broadcast(static_cast<T>(-INFINITY));
  const Vec<T> step = broadcast(static_cast<T>(Vec<T>::lanes));
  Best<T> best{lowest, zero<T>()};
  Vec<T> row = positions_from<T>(0);
  for (int64_t r = 0; r < rows; ++r, x += width) {
    Vec<T> position = row;
    for_each_vec<T>(columns, [&](int64_t i, int lanes) {
      const Vec<T> v = load(x + i, lanes);
      best.meet(lanes == Vec<T>::lanes ? v : select(first_lanes<T>(lanes), v, lowest), position);
      position += step;
    });
    row += broadcast(static_cast<T>(width));
  }
  return best;
}

template <typename T>
FASTDL_INLINE void forward_some_windows(T* y, int64_t* indices, const T* x,
                                        const AdaptiveWindows windows, const AdaptiveBounds& rows,
                                        const AdaptiveBounds& columns, int64_t begin, int64_t end) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t height = windows.rows.output, width = windows.columns.output;
  const int64_t x_width = windows.columns.size, plane = windows.plane();
  int64_t r = begin / width % height, c = begin % width;
  x += begin / (width * height) * plane;
  for (int64_t at = begin; at < end; at += kLanes) {
    const int64_t count = smaller(kLanes, end - at);
    Best<T> best[kLanes];
    int64_t corner[kLanes];
    if (width * height == 1) {  // planes: what they have in common is computed once
      for (int64_t i = 0; i < count; ++i, x += plane) {
        corner[i] = 0;
        best[i] = best_of_window(x, 1, plane, plane);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const bool whole = columns.length(c) == x_width;  // rows, which are one run
        const int64_t run = rows.length(r) * x_width;
        corner[i] = rows.begin(r) * x_width + columns.begin(c);
        best[i] = whole ? best_of_window(x + corner[i], 1, run, run)
                        : best_of_window(x + corner[i], rows.length(r), columns.length(c), x_width);
        if (++c < width) continue;
        c = 0;
        if (++r < height) continue;
        r = 0;
        x += plane;
      }
    }
    for (int64_t i = count; i < kLanes; ++i) best[i] = best[0];
    const Best<T> found = best_lanes(best);
    store(y + at, found.value, static_cast<int>(count));
    if (!indices) continue;
    T offsets[kLanes];
    store(offsets, found.offset);
    for (int64_t i = 0; i < count; ++i) {
      indices[at + i] = corner[i] + static_cast<int32_t>(offsets[i]);
    }
  }
}

template <typename T>
void forward_windows(T* y, int64_t* indices, const T* x, int64_t planes,
                     const AdaptiveWindows& windows) {
  constexpr int64_t kLanes = Vec<T>::lanes;
  const int64_t outputs = windows.output();
  const AdaptiveBounds rows(windows.rows), columns(windows.columns);
  const int64_t some = ceil_div(65536 * outputs, windows.plane() + outputs);  // windows a block
  const int64_t grain = some < kLanes ? some : round_up(some, kLanes);
  parallel_ranges(planes * outputs, grain, [&](int64_t begin, int64_t end) {
    forward_some_windows(y, indices, x, windows, rows, columns, begin, end);
  });
}

// Window after window, for planes with more elements than T can count.
template <typename T>
void forward_huge(T* y, int64_t* indices, const T* x, int64_t planes,
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

}  // namespace

FASTDL_DEFINE_KERNELS(AdaptiveMaxPool2dKernels, adaptive_max_pool2d_kernels, forward_rows<T>,
                      forward_windows<T>, forward_huge<T>)

}  // namespace fastdl::FASTDL_ISA
