// The windows pooling slides over a plane.
#pragma once

#include <cstdint>

#include "core/parallel.h"

namespace fastdl {

// Window o covers the elements o * stride - padding + tap * dilation, tap = 0..kernel-1, as far as
// they lie in 0..size-1. Every window starts before `size`.
struct PoolAxis {
  int64_t size, kernel, stride, padding, dilation, output;

  FASTDL_INLINE int64_t start(int64_t o) const { return o * stride - padding; }
  FASTDL_INLINE int64_t reach() const { return (kernel - 1) * dilation; }
  // The taps of window o inside are first_tap..end_tap-1; dilation can leave none.
  FASTDL_INLINE int64_t first_tap(int64_t o) const {
    return start(o) < 0 ? ceil_div(-start(o), dilation) : 0;
  }
  FASTDL_INLINE int64_t end_tap(int64_t o) const {
    const int64_t end = ceil_div(size - start(o), dilation);
    return end < kernel ? end : kernel;
  }
  // How many elements of window o an average counts, without dilation. What ceil_mode adds behind
  // the padding never does.
  FASTDL_INLINE int64_t extent(int64_t o, bool count_include_pad) const {
    const int64_t margin = count_include_pad ? padding : 0;
    const int64_t begin = start(o) < -margin ? -margin : start(o), end = start(o) + kernel;
    return (end < size + margin ? end : size + margin) - begin;
  }
};

struct PoolWindows {
  PoolAxis rows, columns;

  FASTDL_INLINE int64_t plane() const { return rows.size * columns.size; }
  FASTDL_INLINE int64_t output() const { return rows.output * columns.output; }
};

// Windows of 2 x 2 or 3 x 3, alike along both axes, as most networks have them.
FASTDL_INLINE bool has_few_taps(const PoolWindows& w) {
  const PoolAxis &r = w.rows, &c = w.columns;
  const bool alike = r.kernel == c.kernel && r.stride == c.stride && r.padding == c.padding;
  const bool few =
      (r.kernel == 2 && r.stride == 2) || (r.kernel == 3 && (r.stride == 1 || r.stride == 2));
  return alike && few && r.dilation == 1 && c.dilation == 1;
}

// Window o of an adaptive pool covers the elements begin(o)..end(o)-1; neighbours overlap where
// `output` does not divide `size`.
struct AdaptiveAxis {
  int64_t size, output;

  FASTDL_INLINE int64_t begin(int64_t o) const { return o * size / output; }
  FASTDL_INLINE int64_t end(int64_t o) const { return ceil_div((o + 1) * size, output); }
};

struct AdaptiveWindows {
  AdaptiveAxis rows, columns;

  FASTDL_INLINE int64_t plane() const { return rows.size * columns.size; }
  FASTDL_INLINE int64_t output() const { return rows.output * columns.output; }

  // body(window, top, left, height, width) for the windows of the rows begin..end-1.
  template <typename Body>
  FASTDL_INLINE void for_each(int64_t begin, int64_t end, Body&& body) const {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < columns.output; ++c) {
        body(r * columns.output + c, rows.begin(r), columns.begin(c), rows.end(r) - rows.begin(r),
             columns.end(c) - columns.begin(c));
      }
    }
  }
};

// How the rows of all planes are cut into bands, and these into blocks of work: 64k elements, at
// least 10 us out of memory, make a block; only planes larger than two blocks are cut.
struct PoolBands {
  int64_t rows, rows_per_band, bands_per_plane, count, grain;

  static constexpr int64_t kBlock = 65536;

  FASTDL_INLINE PoolBands(int64_t planes, int64_t plane_cost, int64_t plane_rows,
                          int64_t band_cost = kBlock)
      : rows(plane_rows) {
    const bool cut = plane_cost > 2 * band_cost;
    rows_per_band = cut ? ceil_div(plane_rows, plane_cost / band_cost) : plane_rows;
    bands_per_plane = ceil_div(plane_rows, rows_per_band);
    count = planes * bands_per_plane;
    grain = larger(1, kBlock * bands_per_plane / plane_cost);
  }
  FASTDL_INLINE int64_t plane(int64_t band) const { return band / bands_per_plane; }
  FASTDL_INLINE int64_t begin(int64_t band) const { return band % bands_per_plane * rows_per_band; }
  FASTDL_INLINE int64_t end(int64_t band) const {
    return begin(band) + rows_per_band < rows ? begin(band) + rows_per_band : rows;
  }
};

}  // namespace fastdl
