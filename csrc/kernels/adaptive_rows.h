// Adaptive windows have several sizes, so they are taken apart: down the rows under a row of
// windows with the lanes along the width, then across. For that the results of `lanes` rows of
// windows, of whichever planes, are transposed: each is a lane, each column a vector, and a window
// of any size is a few whole vectors.
#pragma once

#include "core/buffer_pool.h"
#include "core/vec.h"
#include "kernels/pool_windows.h"

namespace fastdl::FASTDL_ISA {

// Where the windows of an axis begin and end, divided out once: for a small window two divisions
// take longer than its sum.
class AdaptiveBounds {
 public:
  FASTDL_INLINE explicit AdaptiveBounds(const AdaptiveAxis& axis)
      : count_(axis.output),
        widest_(0),
        one_band_(axis.output <= kBand && axis.size <= kBand),
        bounds_(2 * axis.output) {
    for (int64_t o = 0; o < axis.output; ++o) {
      bounds_.data()[2 * o] = axis.begin(o);
      bounds_.data()[2 * o + 1] = axis.end(o);
      widest_ = larger(widest_, length(o));
    }
  }
  FASTDL_INLINE int64_t begin(int64_t o) const { return bounds_.data()[2 * o]; }
  FASTDL_INLINE int64_t end(int64_t o) const { return bounds_.data()[2 * o + 1]; }
  FASTDL_INLINE int64_t length(int64_t o) const { return end(o) - begin(o); }

  // Windows are done in bands, begun at `first`, so that what is transposed lies in L1: no more
  // than 256 of them and 256 elements (16 KB of vectors), or one window that is wider.
  FASTDL_INLINE int64_t band_end(int64_t first) const {
    if (one_band_) return count_;
    int64_t o = first + 1;
    while (o < count_ && o - first < kBand && end(o) - begin(first) <= kBand) ++o;
    return o;
  }
  FASTDL_INLINE int64_t band_width() const { return larger(widest_, kBand); }

 private:
  static constexpr int64_t kBand = 256;
  int64_t count_, widest_;
  bool one_band_;
  Workspace<int64_t> bounds_;
};

// The rows of windows of all planes in groups of `lanes`, and these in blocks of 64k elements of x.
struct LaneGroups {
  int64_t rows_per_plane, lanes, rows, count, grain;

  FASTDL_INLINE LaneGroups(int64_t planes, const AdaptiveWindows& windows, int64_t lanes)
      : rows_per_plane(windows.rows.output),
        lanes(lanes),
        rows(planes * rows_per_plane),
        count(ceil_div(rows, lanes)),
        grain(ceil_div(65536 * rows_per_plane, lanes * (windows.plane() + windows.output()))) {}

  FASTDL_INLINE int64_t first(int64_t group) const { return group * lanes; }
  FASTDL_INLINE int64_t size(int64_t group) const { return smaller(lanes, rows - first(group)); }
};

// Where the rows under each row of windows of a group begin, in x, and how many they are.
template <typename T>
struct GroupRows {
  const T* x[Vec<T>::lanes];
  int64_t top[Vec<T>::lanes], height[Vec<T>::lanes];

  FASTDL_INLINE GroupRows(const LaneGroups& groups, int64_t group, const T* from,
                          const AdaptiveBounds& rows, const AdaptiveWindows& windows) {
    int64_t r = groups.first(group) % groups.rows_per_plane;
    from += groups.first(group) / groups.rows_per_plane * windows.plane();
    for (int64_t i = 0; i < groups.size(group); ++i) {
      x[i] = from + rows.begin(r) * windows.columns.size;
      top[i] = rows.begin(r);
      height[i] = rows.length(r);
      if (++r < groups.rows_per_plane) continue;
      r = 0;
      from += windows.plane();
    }
  }
};

// to[c][i] = row(i, c, lanes)[c] for up to `lanes` rows.
template <typename T, typename Row>
FASTDL_INLINE void rows_to_lanes(T* to, int64_t rows, int64_t columns, Row&& row) {
  constexpr int kLanes = Vec<T>::lanes;
  for_each_vec<T>(columns, [&](int64_t c, int lanes) {
    Vec<T> v[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = i < rows ? row(i, c, lanes) : zero<T>();
    interleave(v);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(to + (c + i) * kLanes, v[i]);
  });
}

// to[i][c] = from[c][i]. Whole blocks of lanes x lanes are read.
template <typename T>
FASTDL_INLINE void lanes_to_rows(T* to, int64_t pitch, int64_t rows, int64_t columns,
                                 const T* from) {
  constexpr int kLanes = Vec<T>::lanes;
  for_each_vec<T>(columns, [&](int64_t c, int lanes) {
    Vec<T> v[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = load(from + (c + i) * kLanes);
    interleave(v);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i < rows) store(to + i * pitch + c, v[i], lanes);
    }
  });
}

}  // namespace fastdl::FASTDL_ISA
