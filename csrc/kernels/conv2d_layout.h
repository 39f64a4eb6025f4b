// How the convolutions cut planes of outputs into bands, and lay out the zero-padded elements of x
// that a band reads, so that the loops over taps have no edge cases.
#pragma once

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/vec.h"
#include "kernels/conv2d.h"

namespace fastdl::FASTDL_ISA {

// A plane of outputs in bands of whole rows or, if those are too long, of parts of a row, multiples
// of `step`: either way the outputs of a band lie in a line.
struct Bands {
  HeightWidth out, size;
  int64_t across, count;

  Bands(HeightWidth out, int64_t most, int64_t step = 1) : out(out), size{1, out.w} {
    if (out.w <= most) {
      size.h = ceil_div(out.h, ceil_div(out.h, most / out.w));
    } else {
      size.w = round_up(ceil_div(out.w, ceil_div(out.w, most)), step);
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

// The lanes of a vector at column `start` that lie in a row of `width` elements.
template <typename T>
FASTDL_INLINE Mask<T> lanes_inside(int64_t start, int64_t width) {
  const auto first = [](int64_t n) {
    return first_lanes<T>(static_cast<int>(larger(0, smaller(n, Vec<T>::lanes))));
  };
  return first(width - start) & ~first(-start);
}

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
  int64_t row_length() const { return row_length_; }
  // Of each column of taps, its offset in a row.
  const int64_t* columns() const { return columns_.data(); }
  // A vector may be read from any element of `planes` planes.
  int64_t scratch(int64_t planes) const { return planes * plane() + Vec<T>::lanes; }

  // Copies what the band at `first` reads of a plane of x, between `outside`.
  void fill(T* to, const T* x, HeightWidth first, T outside = 0) const {
    surround(to, first, outside);
    copy(to, x, first);
  }
  // The two halves of fill().
  void surround(T* to, HeightWidth first, T outside) const {
    for_each_row(to, first, [&](T* run, int64_t h, int64_t, const Inside& inside) {
      const bool exists = h >= 0 && h < s_.in.h;
      fill_with(run, exists ? inside.begin : run_length_, outside);
      if (exists) fill_with(run + inside.end, run_length_ - inside.end, outside);
    });
  }
  void copy(T* to, const T* x, HeightWidth first) const {
    if (!rows_.in_order() || s_.stride.w > 2 || runs_ != s_.stride.w || run_step_ != 1) {
      for_each_row(to, first, [&](T* run, int64_t h, int64_t start, const Inside& inside) {
        if (h < 0 || h >= s_.in.h) return;
        const T* from = x + h * s_.in.w + start + inside.begin * s_.stride.w;
        for (int64_t i = inside.begin; i < inside.end; ++i) {
          run[i] = from[(i - inside.begin) * s_.stride.w];
        }
      });
      return;
    }
    const int64_t top = first.h * s_.stride.h - s_.padding.h;
    const int64_t left = first.w * s_.stride.w - s_.padding.w;
    const Inside rows(top, 1, rows_.size, s_.in.h), columns(left, 1, row_length_, s_.in.w);
    for (int64_t place = rows.begin; place < rows.end; ++place) {
      T* row = to + place * row_length_;
      const T* from = x + (top + place) * s_.in.w + left;
      if (s_.stride.w == 1) {
        for_each_vec<T>(columns.end - columns.begin, [&](int64_t i, int lanes) {
          store(row + columns.begin + i, load(from + columns.begin + i, lanes), lanes);
        });
      } else {
        split(row, from, columns.begin, columns.end);
      }
    }
  }
  // What follows in memory, the next band in all likelihood, begins to come to L2.
  void prefetch_next(const T* x, HeightWidth first) const {
    const int64_t rows = smaller(rows_.size, s_.in.h);
    const int64_t bottom = first.h * s_.stride.h - s_.padding.h + rows;
    for (int64_t i = 0; i < rows * s_.in.w; i += 64 / sizeof(T)) {
      __builtin_prefetch(x + bottom * s_.in.w + i, 0, 2);
    }
  }

  // The transpose of fill: adds to the elements of x what lies at their places.
  void add_to(T* x, T* from, HeightWidth first) const {
    for_each_row(from, first, [&](T* run, int64_t h, int64_t start, const Inside& inside) {
      if (h < 0 || h >= s_.in.h) return;
      for (int64_t i = inside.begin; i < inside.end; ++i) {
        x[h * s_.in.w + start + i * s_.stride.w] += run[i];
      }
    });
  }

 private:
  static void fill_with(T* to, int64_t n, T value) {
    for_each_vec<T>(n, [&](int64_t i, int lanes) { store(to + i, broadcast(value), lanes); });
  }

  // The elements begin..end-1 of `from`: the even ones to the first run, the odd ones to the other.
  void split(T* row, const T* from, int64_t begin, int64_t end) const {
    constexpr int kLanes = Vec<T>::lanes;
    const int64_t odd = begin % 2;
    T *first = row + odd * run_length_ + begin / 2, *second = row + (begin + 1) / 2;
    if (!odd) second += run_length_;
    const auto vectors = [&](int64_t i) {
      const Vec<T> a = load(from + i), b = load(from + i + kLanes);
      store(first + (i - begin) / 2, even_lanes(a, b));
      store(second + (i - begin) / 2, odd_lanes(a, b));
    };
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) vectors(i);
    if (i == end) return;
    // What is left over goes with whole vectors that begin earlier, if they end with a pair.
    if (i > begin && (end - i) % 2 == 0) return vectors(end - 2 * kLanes);
    const auto n = static_cast<int>(end - i);
    const int low = n < kLanes ? n : kLanes;
    const Vec<T> a = load(from + i, low), b = load(from + i + kLanes, n - low);
    store(first + (i - begin) / 2, even_lanes(a, b), (n + 1) / 2);
    store(second + (i - begin) / 2, odd_lanes(a, b), n / 2);
  }

  // visit(run, row of x, column of x of the run's first element, which of its elements exist), for
  // two runs of a row at a time: what they share of x is in L1.
  template <typename Visit>
  void for_each_row(T* plane, HeightWidth first, Visit&& visit) const {
    for (int64_t j = 0; j < runs_; j += 2) {
      const auto start = [&](int64_t k) {
        return first.w * s_.stride.w + (j + k) * run_step_ - s_.padding.w;
      };
      const Inside inside[2] = {Inside(start(0), s_.stride.w, run_length_, s_.in.w),
                                Inside(start(1), s_.stride.w, run_length_, s_.in.w)};
      for (int64_t place = 0; place < rows_.size; ++place) {
        const int64_t h = first.h * s_.stride.h + rows_.element(place) - s_.padding.h;
        T* run = plane + place * row_length_ + j * run_length_;
        for (int64_t k = 0; k < smaller(2, runs_ - j); ++k) {
          visit(run + k * run_length_, h, start(k), inside[k]);
        }
      }
    }
  }

  TapAxis rows_;
  Conv2dSizes s_;
  Workspace<int64_t> columns_;
  int64_t runs_, run_step_, run_length_, row_length_;
};

constexpr int64_t kStageElements = 4096;   // 16 KB of float32: a third of L1
constexpr int64_t kBlockElements = 32768;  // some 10 us from L3

// How many pieces of `size` elements for_each_band copies before it runs the first.
FASTDL_INLINE int64_t pieces_at_once(int64_t size) { return larger(kStageElements / size, 1); }

// `cost`: elements of a band, read and written.
// surround(scratch, band) and copy(scratch, plane, band) lay out a band of a plane in `size`
// elements, run(scratch, plane, band) computes with it. What surrounds whole planes stays from one
// to the next. Several small ones are copied before the first runs: a load across the border of two
// fresh stores would wait for both to reach the cache.
template <typename T, typename Surround, typename Copy, typename Run>
FASTDL_INLINE void for_each_band(int64_t planes, const Bands& bands, int64_t size, int64_t cost,
                                 Surround&& surround, Copy&& copy, Run&& run) {
  const int64_t at_once = pieces_at_once(size);
  const bool whole = bands.count == 1;
  parallel_ranges(planes * bands.count, ceil_div(kBlockElements, cost),
                  [&](int64_t begin, int64_t end) {
                    const Workspace<T> scratch(at_once * size);
                    const auto slot = [&](int64_t i) { return scratch.data() + i * size; };
                    for (int64_t i = 0; whole && i < smaller(at_once, end - begin); ++i)
                      surround(slot(i), 0);
                    for (int64_t first = begin; first < end; first += at_once) {
                      const int64_t count = smaller(at_once, end - first);
                      for (int64_t i = 0; i < count; ++i) {
                        const int64_t plane = whole ? first + i : (first + i) / bands.count;
                        const int64_t band = whole ? 0 : (first + i) % bands.count;
                        if (!whole) surround(slot(i), band);
                        copy(slot(i), plane, band);
                      }
                      for (int64_t i = 0; i < count; ++i) {
                        const int64_t plane = whole ? first + i : (first + i) / bands.count;
                        run(slot(i), plane, whole ? 0 : (first + i) % bands.count);
                      }
                    }
                  });
}

FASTDL_INLINE HeightWidth outputs_of(const Bands& bands, int64_t band) {
  const HeightWidth first = bands.first(band);
  return {smaller(bands.size.h, bands.out.h - first.h),
          smaller(bands.size.w, bands.out.w - first.w)};
}

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
