// Rows on their way through a pooling window, which is taken apart into its columns and its rows:
// first the taps of one row of x are reduced to one value per window, then these rows are.
#pragma once

#include "core/buffer_pool.h"
#include "core/vec.h"
#include "kernels/pool_windows.h"

namespace fastdl::FASTDL_ISA {

// A row of x between padding, split into the columns that are equal modulo the stride, so that tap
// j of all windows is one contiguous run: taps()[j][o] belongs to window o.
template <typename T>
class SplitRow {
 public:
  FASTDL_INLINE SplitRow(const PoolAxis& axis, T padding)
      : axis_(axis),
        padding_(padding),
        as_it_lies_(axis.stride == 1 && axis.padding == 0 &&
                    axis.output + axis.reach() <= axis.size),
        length_(phase_length(axis)),
        buffer_(as_it_lies_ ? 1 : axis.stride * length_),
        taps_(axis.kernel) {
    if (as_it_lies_) return;
    T* buffer = buffer_.data();
    for (int64_t i = 0; i < axis.stride * length_; ++i) buffer[i] = padding;
    for (int64_t j = 0; j < axis.kernel; ++j) {
      const int64_t column = j * axis.dilation;
      taps_.data()[j] = phase(column % axis.stride) + column / axis.stride;
    }
  }

  FASTDL_INLINE void set(const T* x) {
    if (as_it_lies_) {
      for (int64_t j = 0; j < axis_.kernel; ++j) taps_.data()[j] = x + j * axis_.dilation;
    } else if (axis_.stride == 1) {
      copy(x);
    } else if (axis_.stride == 2) {
      split_in_two(x);
    } else {
      for (int64_t p = 0; p < axis_.stride; ++p) split(x, p);
    }
  }

  FASTDL_INLINE const T* const* taps() const { return taps_.data(); }

 private:
  // Vectors are stored whole, up to one beyond the last element.
  static FASTDL_INLINE int64_t phase_length(const PoolAxis& axis) {
    const int64_t read = axis.output + axis.reach() / axis.stride + 1;
    const int64_t written = (axis.padding + axis.size) / axis.stride + 1;
    return (read < written ? written : read) + Vec<T>::lanes;
  }
  FASTDL_INLINE T* phase(int64_t p) const { return buffer_.data() + p * length_; }

  // A whole vector was stored over the end of the row: padding again.
  FASTDL_INLINE void pad(T* end) { store(end, broadcast(padding_)); }

  FASTDL_INLINE void copy(const T* x) {
    T* to = phase(0) + axis_.padding;
    for_each_vec<T>(axis_.size, [&](int64_t i, int lanes) { store(to + i, load(x + i, lanes)); });
    pad(to + axis_.size);
  }

  FASTDL_INLINE void split_in_two(const T* x) {
    constexpr int kLanes = Vec<T>::lanes;
    T* even = phase(axis_.padding % 2) + axis_.padding / 2;
    T* odd = phase((axis_.padding + 1) % 2) + (axis_.padding + 1) / 2;
    int64_t i = 0;
    for (; i + 2 * kLanes <= axis_.size; i += 2 * kLanes) {
      const Vec<T> a = load(x + i), b = load(x + i + kLanes);
      store(even + i / 2, even_lanes(a, b));
      store(odd + i / 2, odd_lanes(a, b));
    }
    if (i < axis_.size) {
      const int left = static_cast<int>(axis_.size - i);
      const Vec<T> a = load(x + i, left < kLanes ? left : kLanes);
      const Vec<T> b = left > kLanes ? load(x + i + kLanes, left - kLanes) : zero<T>();
      store(even + i / 2, even_lanes(a, b));
      store(odd + i / 2, odd_lanes(a, b));
    }
    pad(even + (axis_.size + 1) / 2);
    pad(odd + axis_.size / 2);
  }

  FASTDL_INLINE void split(const T* x, int64_t p) {
    const int64_t first = p < axis_.padding ? ceil_div(axis_.padding - p, axis_.stride) : 0;
    T* to = phase(p) + first;
    const int64_t begin = first * axis_.stride + p - axis_.padding;
    for (int64_t column = begin; column < axis_.size; column += axis_.stride) *to++ = x[column];
  }

  PoolAxis axis_;
  T padding_;
  bool as_it_lies_;
  int64_t length_;
  Workspace<T> buffer_;
  Workspace<const T*> taps_;
};

// Rows that several windows need one after the other: computed at the first request for one, and
// kept for the next `count` rows.
template <typename T>
class RowRing {
 public:
  FASTDL_INLINE RowRing(int64_t count, int64_t length)
      : count_(count), length_(length), data_(count * length), held_(count) {
    forget();
  }

  FASTDL_INLINE void forget() {
    for (int64_t i = 0; i < count_; ++i) held_.data()[i] = -1;
  }

  template <typename Compute>
  FASTDL_INLINE T* row(int64_t index, Compute&& compute) {
    const int64_t slot = index % count_;
    T* row = data_.data() + slot * length_;
    if (held_.data()[slot] != index) {
      held_.data()[slot] = index;
      compute(row);
    }
    return row;
  }

 private:
  int64_t count_, length_;
  Workspace<T> data_;
  Workspace<int64_t> held_;
};

// body(count), a compile-time constant for the counts that matter.
template <typename Body>
FASTDL_INLINE void with_constant(int64_t count, Body&& body) {
  struct Two {
    constexpr operator int64_t() const { return 2; }
  };
  struct Three {
    constexpr operator int64_t() const { return 3; }
  };
  if (count == 2) return body(Two{});
  if (count == 3) return body(Three{});
  body(count);
}

// For every i < length: result(i, lanes, v) with v the reduction of rows[0][i..], rows[1][i..], ...
// by combine(value, result so far). Sums go in groups of 16, to keep the error of long ones small.
template <typename T, typename Combine, typename Result>
FASTDL_INLINE void reduce_rows(const T* const* rows, int64_t count, int64_t length,
                               Combine&& combine, Result&& result) {
  with_constant(count, [&](auto n) {
    for_each_vec<T>(length, [&](int64_t i, int lanes) {
      Vec<T> total = load(rows[0] + i, lanes);
      for (int64_t k = 1; k < n && k < 16; ++k) total = combine(load(rows[k] + i, lanes), total);
      for (int64_t begin = 16; begin < n; begin += 16) {
        Vec<T> group = load(rows[begin] + i, lanes);
        for (int64_t k = begin + 1; k < n && k < begin + 16; ++k) {
          group = combine(load(rows[k] + i, lanes), group);
        }
        total = combine(group, total);
      }
      result(i, lanes, total);
    });
  });
}

// The rows of a plane under one row of windows, their taps reduced to one entry per window.
template <typename T>
class WindowRows {
 public:
  // An entry is `entry` values of T for each of the windows of a row.
  FASTDL_INLINE WindowRows(const PoolWindows& windows, T padding, int64_t entry = 1)
      : rows_(windows.rows),
        width_(windows.columns.size),
        split_(windows.columns, padding),
        ring_(least(rows_.reach() + 1, rows_.size), entry * windows.columns.output),
        under_(least(rows_.kernel, rows_.size)) {}

  // To be called before another plane.
  FASTDL_INLINE void forget() { ring_.forget(); }

  // reduce(row, taps) fills an entry from taps as in SplitRow. The result holds end_tap - first_tap
  // pointers.
  template <typename Reduce>
  FASTDL_INLINE const T* const* under(int64_t o, const T* x, Reduce&& reduce) {
    const int64_t first = rows_.first_tap(o), count = rows_.end_tap(o) - first;
    for (int64_t k = 0; k < count; ++k) {
      const int64_t r = rows_.start(o) + (first + k) * rows_.dilation;
      under_.data()[k] = ring_.row(r, [&](T* row) {
        split_.set(x + r * width_);
        reduce(row, split_.taps());
      });
    }
    return under_.data();
  }

 private:
  static FASTDL_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  PoolAxis rows_;
  int64_t width_;
  SplitRow<T> split_;
  RowRing<T> ring_;
  Workspace<const T*> under_;
};

}  // namespace fastdl::FASTDL_ISA
