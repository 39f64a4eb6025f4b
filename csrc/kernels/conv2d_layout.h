// How the convolutions cut planes of outputs into bands, and lay out the zero-padded elements of x
// that a band reads, so that the loops over taps have no edge cases.
#pragma once

#include <string.h>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "kernels/conv2d.h"

namespace fastdl::FASTDL_ISA {

FASTDL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTDL_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// A plane of outputs in bands of whole rows or, if those are too long, of parts of a row: either
// way the outputs of a band lie in a line.
struct Bands {
  HeightWidth out, size;
  int64_t across, count;

  Bands(HeightWidth out, int64_t most) : out(out), size{1, out.w} {
    if (out.w <= most) {
      size.h = ceil_div(out.h, ceil_div(out.h, most / out.w));
    } else {
      size.w = ceil_div(out.w, ceil_div(out.w, most));
    }
    across = ceil_div(out.w, size.w);
    count = ceil_div(out.h, size.h) * across;
  }
  HeightWidth first(int64_t band) const { return {band / across * size.h, band % across * size.w}; }
  // The offset in the plane of a band's first output, and how many it has.
  int64_t offset(int64_t band) const { return first(band).h * out.w + first(band).w; }
  int64_t outputs(int64_t band) const {
    const HeightWidth at = first(band);
    return smaller(size.h, out.h - at.h) * smaller(size.w, out.w - at.w);
  }
};

// Along one axis, tap t of output o lies at place o * out_step + t * tap_step of `size`. The places
// are the padded elements in order or, where that takes fewer (large strides and dilations), those
// under tap 0, then those under tap 1, ...
struct TapAxis {
  int64_t outs, stride, dilation, out_step, tap_step, size;

  TapAxis(int64_t outs, int64_t taps, int64_t stride, int64_t dilation)
      : outs(outs),
        stride(stride),
        dilation(dilation),
        out_step(1),
        tap_step(outs),
        size(taps * outs) {
    const int64_t reach = dilation * (taps - 1);
    if (stride <= taps && reach < size && (outs - 1) * stride + reach < size) {
      out_step = stride;
      tap_step = dilation;
      size = (outs - 1) * stride + reach + 1;
    }
  }
  bool in_order() const { return out_step == stride && tap_step == dilation; }
  // The padded element at a place, counted from the first one under output 0.
  int64_t element(int64_t place) const {
    return in_order() ? place : place % outs * stride + place / outs * dilation;
  }
};

// Which of the elements start, start + step, ... (n of them) lie within 0..size-1.
struct Inside {
  int64_t begin, end;
  Inside(int64_t start, int64_t step, int64_t n, int64_t size) {
    begin = start < 0 ? smaller(n, (-start - 1) / step + 1) : 0;
    end = start < size ? larger(begin, smaller(n, (size - 1 - start) / step + 1)) : begin;
  }
};

// Planes with the lanes along the width: what one tap reads for consecutive outputs of a row lies
// in a line, for any stride: a row holds its columns modulo the stride apart, as `runs` runs.
template <typename T>
class TapRows {
 public:
  // For bands of size outputs; runs take a multiple of `step` elements.
  TapRows(const Conv2dSizes& s, HeightWidth size, int64_t step = 1)
      : rows_(size.h, s.kernel.h, s.stride.h, s.dilation.h), s_(s), columns_(s.kernel.w) {
    const int64_t reach = s.reach().w, apart = s.kernel.w * size.w;
    run_length_ = size.w + reach / s.stride.w;
    const bool in_order =
        s.stride.w <= s.kernel.w && reach < apart && s.stride.w * run_length_ <= apart;
    runs_ = in_order ? s.stride.w : s.kernel.w;
    run_step_ = in_order ? 1 : s.dilation.w;
    run_length_ = ceil_div(in_order ? run_length_ : size.w, step) * step;
    row_length_ = runs_ * run_length_;
    for (int64_t j = 0; j < s.kernel.w; ++j) {
      const int64_t column = j * s.dilation.w;
      columns_.data()[j] =
          in_order ? column % s.stride.w * run_length_ + column / s.stride.w : j * run_length_;
    }
  }

  // Elements from one output row to the next, from one row of taps to the next, in a plane.
  int64_t out_step() const { return rows_.out_step * row_length_; }
  int64_t tap_step() const { return rows_.tap_step * row_length_; }
  int64_t plane() const { return rows_.size * row_length_; }
  // Of each column of taps, its offset in a row.
  const int64_t* columns() const { return columns_.data(); }
  // A vector may be read from any element of `planes` planes.
  int64_t scratch(int64_t planes) const { return planes * plane() + Vec<T>::lanes; }

  // Copies what the band at `first` reads of a plane of x.
  void fill(T* to, const T* x, HeightWidth first) const {
    for (int64_t j = 0; j < runs_; ++j) {
      const int64_t start = first.w * s_.stride.w + j * run_step_ - s_.padding.w;
      const Inside inside(start, s_.stride.w, run_length_, s_.in.w);
      for (int64_t place = 0; place < rows_.size; ++place) {
        const int64_t h = first.h * s_.stride.h + rows_.element(place) - s_.padding.h;
        T* run = to + place * row_length_ + j * run_length_;
        if (h < 0 || h >= s_.in.h) {
          memset(run, 0, static_cast<size_t>(run_length_) * sizeof(T));
        } else {
          copy_run(run, x + h * s_.in.w + start, inside);
        }
      }
    }
  }

  // The transpose of fill: adds to the elements of x what lies at their places.
  void add_to(T* x, T* from, HeightWidth first) const {
    for_each_run(from, first, [&](T* run, int64_t h, int64_t start) {
      if (h < 0 || h >= s_.in.h) return;
      const Inside inside(start, s_.stride.w, run_length_, s_.in.w);
      for (int64_t i = inside.begin; i < inside.end; ++i) {
        x[h * s_.in.w + start + i * s_.stride.w] += run[i];
      }
    });
  }

 private:
  // run[i] = from[i * stride] inside, and 0 outside.
  void copy_run(T* run, const T* from, Inside inside) const {
    constexpr int lanes = Vec<T>::lanes;
    const int64_t begin = inside.begin, end = inside.end;
    for (int64_t i = 0; i < begin; ++i) run[i] = 0;
    if (s_.stride.w == 1) {
      for_each_vec<T>(end - begin, [=](int64_t i, int n) {
        store(run + begin + i, load(from + begin + i, n), n);
      });
    } else if (s_.stride.w == 2) {
      for_each_vec<T>(end - begin, [=](int64_t i, int n) {
        const T* pair = from + 2 * (begin + i);
        const int last = 2 * n - 1;  // nothing is read behind the last element
        const Vec<T> low = load(pair, last < lanes ? last : lanes);
        const Vec<T> high = last > lanes ? load(pair + lanes, last - lanes) : zero<T>();
        store(run + begin + i, even_lanes(low, high), n);
      });
    } else {
      for (int64_t i = begin; i < end; ++i) run[i] = from[i * s_.stride.w];
    }
    for (int64_t i = end; i < run_length_; ++i) run[i] = 0;
  }

  // visit(run, row of x, column of x of the run's first element); both may lie outside.
  template <typename Visit>
  void for_each_run(T* plane, HeightWidth first, Visit&& visit) const {
    for (int64_t place = 0; place < rows_.size; ++place) {
      const int64_t h = first.h * s_.stride.h + rows_.element(place) - s_.padding.h;
      for (int64_t j = 0; j < runs_; ++j) {
        visit(plane + place * row_length_ + j * run_length_, h,
              first.w * s_.stride.w + j * run_step_ - s_.padding.w);
      }
    }
  }

  TapAxis rows_;
  Conv2dSizes s_;
  Workspace<int64_t> columns_;
  int64_t runs_, run_step_, run_length_, row_length_;
};

// `length` elements to copy.
struct Run {
  int64_t from;
  int to, length;
};

// Copies whole vectors: what lies up to a vector behind a run must be readable, and is overwritten.
template <typename T>
FASTDL_INLINE void copy_runs(T* to, const T* from, const Run* runs, int count) {
  for (int i = 0; i < count; ++i) {
    for (int at = 0; at < runs[i].length; at += Vec<T>::lanes) {
      store(to + runs[i].to + at, load(from + runs[i].from + at));
    }
  }
}

template <typename T>
FASTDL_INLINE void copy_runs_exactly(T* to, const T* from, const Run* runs, int count) {
  for (int i = 0; i < count; ++i) {
    for (int at = 0; at < runs[i].length; ++at) to[runs[i].to + at] = from[runs[i].from + at];
  }
}

}  // namespace fastdl::FASTDL_ISA
