// Slices of arrays (outer, dim, inner) along dim, for softmax and the losses on top of it.
//
// With inner = 1 a slice is a row and the lanes run along it; otherwise the lanes run along inner,
// one column each, and no lane meets another.
#pragma once

#include <math.h>
#include <stdint.h>

#include "core/buffer_pool.h"
#include "core/cache.h"
#include "core/parallel.h"
#include "core/reduce.h"
#include "core/vec_math.h"

namespace fastdl::FASTDL_ISA {

// About 16k elements a block: some 10 us with exp.
constexpr int64_t kSliceGrain = 16384;
constexpr int64_t kScratch = 256 << 10;  // bytes of slices that are kept in L2
// Vectors of columns copied together, and how many vectors ahead the next ones are fetched: with 32
// together the copies leave L1, and (16, 19, 128, 128) takes 1.27 ms instead of 0.95.
constexpr int64_t kColumnVectors = 4, kColumnAhead = 16;
// While a row is computed its next elements, and the next row, come in: the loops over a block in
// L1 alternate, and without this memory would wait for the arithmetic (rows of 32000: 38 GB/s
// instead of 50).
constexpr int64_t kAhead = 2048;

// What an op reads and writes, all of one shape; null where it has fewer.
template <typename T>
struct Slices {
  const T* in[2];
  T* out[2];

  FASTDL_INLINE Slices at(int64_t offset) const {
    const auto move = [=](auto* p) { return p ? p + offset : p; };
    return {{move(in[0]), move(in[1])}, {move(out[0]), move(out[1])}};
  }
  FASTDL_INLINE int count() const {
    return (in[0] != nullptr) + (in[1] != nullptr) + (out[0] != nullptr) + (out[1] != nullptr);
  }
};

// Whether `arrays` arrays of so many elements exceed the caches.
template <typename T>
FASTDL_INLINE bool past_cache(int64_t arrays, int64_t elements) {
  return exceeds_cache(arrays * elements * static_cast<int64_t>(sizeof(T)));
}

// y[i] = value(i, lanes) for 0..n-1.
template <typename T, typename Value>
FASTDL_INLINE void write(T* y, int64_t n, bool past_cache, Value&& value) {
  constexpr int lanes = Vec<T>::lanes;
  if (!past_cache) {
    return for_each_vec<T>(n, [&](int64_t i, int count)
                                  FASTDL_INLINE_LAMBDA { store(y + i, value(i, count), count); });
  }
  int64_t i = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(y) / sizeof(T) % lanes);
  if (i > n) i = n;
  if (i > 0) store(y, value(0, static_cast<int>(i)), static_cast<int>(i));
  for (; i + lanes <= n; i += lanes) stream(y + i, value(i, lanes));
  if (i < n) store(y + i, value(i, static_cast<int>(n - i)), static_cast<int>(n - i));
}

// row(r, scratch) for every row of `dim` elements, with scratch for so many of them.
template <typename T, typename Row>
FASTDL_INLINE void for_each_row(int64_t rows, int64_t dim, int64_t scratch_size, Row&& row) {
  const int64_t grain = dim < kSliceGrain ? kSliceGrain / (dim > 0 ? dim : 1) : 1;
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(scratch_size);
    for (int64_t r = begin; r < end; ++r) row(r, scratch.data());
  });
}

// exp of a row, block by block, with a maximum for every block and lane: the row is read once, and
// no exponential waits for a maximum over the lanes.
//   exp(x[i] - max) = e[i] * factor(i / kBlock)[i % lanes],   sum = sum_i exp(x[i] - max)
template <typename T>
class RowExp {
 public:
  static constexpr int64_t kBlock = 64 * Vec<T>::lanes;
  T max, sum;

  // Of the scratch: two vectors a block.
  static FASTDL_INLINE int64_t statistics_size(int64_t n) {
    return 2 * ceil_div(n, kBlock) * Vec<T>::lanes;
  }

  // e may be null, if only max and sum are wanted, or x.
  FASTDL_INLINE RowExp(T* e, const T* x, int64_t n, T* statistics) : factors_(statistics) {
    constexpr int64_t lanes = Vec<T>::lanes;
    const int64_t blocks = ceil_div(n, kBlock);
    T* sums = statistics + blocks * lanes;
    Vec<T> largest = broadcast(static_cast<T>(-INFINITY));
    for (int64_t k = 0; k < blocks; ++k) {
      const int64_t begin = k * kBlock, size = n - begin < kBlock ? n - begin : kBlock;
      const Vec<T> m = block_max(x + begin, size);
      store(sums + k * lanes, block_exp(e ? e + begin : nullptr, x + begin, size, m));
      store(factors_ + k * lanes, m);
      largest = FASTDL_ISA::max(m, largest);
    }
    max = reduce_max(largest);
    sum = reduce_add(blocked_lane_sum<T>(blocks, [&](int64_t k) FASTDL_INLINE_LAMBDA {
      const Vec<T> factor = exp(load(factors_ + k * lanes) - broadcast(max));
      store(factors_ + k * lanes, factor);
      return load(sums + k * lanes) * factor;
    }));
  }
  FASTDL_INLINE Vec<T> factor(int64_t k) const { return load(factors_ + k * Vec<T>::lanes); }

 private:
  static FASTDL_INLINE Vec<T> block_max(const T* x, int64_t n) {
    constexpr int lanes = Vec<T>::lanes;
    const int64_t whole = n / lanes;
    const Vec<T> m = lane_max(whole, broadcast(static_cast<T>(-INFINITY)),
                              [&](int64_t i) FASTDL_INLINE_LAMBDA { return load(x + i * lanes); });
    const int left = static_cast<int>(n % lanes);
    if (left == 0) return m;
    return select(first_lanes<T>(left), FASTDL_ISA::max(load(x + whole * lanes, left), m), m);
  }

  // e = exp(x - m), and its sum.
  static FASTDL_INLINE Vec<T> block_exp(T* e, const T* x, int64_t n, Vec<T> m) {
    // Where there is nothing but -inf, exp(-inf - 0) = 0 is what the other blocks need.
    const Vec<T> shift = select(m == broadcast(static_cast<T>(-INFINITY)), zero<T>(), m);
    Vec<T> total = zero<T>();
    for_each_vec<T>(n, [&](int64_t i, int count) FASTDL_INLINE_LAMBDA {
      __builtin_prefetch(x + i + kAhead);
      const Vec<T> v = exp(load(x + i, count) - shift);
      if (e) store(e + i, v, count);
      total += select(first_lanes<T>(count), v, zero<T>());
    });
    return total;
  }

  T* factors_;
};

// Copies of `width` vectors of columns: vector v of line i lies at (v * line + i) * lanes.
template <typename T>
class ColumnCopies {
 public:
  int64_t line;   // vectors from one vector of columns to the next
  int64_t width;  // 0 if the arrays serve as they lie, or a copy would not fit

  FASTDL_INLINE ColumnCopies(int64_t dim, int64_t inner, const Slices<T>& slices, bool in_place)
      : line(dim | 1),  // odd: all sets are used
        dim_(dim),
        inner_(inner),
        arrays_(slices.count() - in_place),
        in_place_(in_place) {
    const int64_t bytes = arrays_ * line * static_cast<int64_t>(sizeof(Vec<T>));
    const int64_t vectors = ceil_div(inner, Vec<T>::lanes), fitting = kScratch / bytes;
    width = vectors < kColumnVectors ? vectors : kColumnVectors;
    width = fitting < width ? fitting : width;
    if (vectors == 1) width = 0;
  }
  FASTDL_INLINE int64_t size() const { return arrays_ * array_size(); }

  FASTDL_INLINE Slices<T> load_all(T* scratch, const Slices<T>& from, int64_t cols) const {
    Slices<T> to = {};
    for (int k = 0; k < 2; ++k) {
      if (!from.in[k]) continue;
      for (int64_t i = 0; i < dim_; ++i) {
        const T* p = from.in[k] + i * inner_;
        for_each_vec<T>(cols, [&](int64_t c, int count) FASTDL_INLINE_LAMBDA {
          __builtin_prefetch(p + c + kColumnAhead * Vec<T>::lanes, 0, 2);  // into L2
          store(scratch + c * line + i * Vec<T>::lanes, load(p + c, count));
        });
      }
      to.in[k] = scratch;
      if (k == 0 && in_place_) to.out[0] = scratch;
      scratch += array_size();
    }
    for (int k = 0; k < 2; ++k) {
      if (!from.out[k] || to.out[k]) continue;
      to.out[k] = scratch;
      scratch += array_size();
    }
    return to;
  }

  FASTDL_INLINE void store_all(const Slices<T>& to, const Slices<T>& from, int64_t cols,
                               bool past) const {
    for (int k = 0; k < 2; ++k) {
      if (!to.out[k]) continue;
      for (int64_t i = 0; i < dim_; ++i) {
        const T* p = from.out[k] + i * Vec<T>::lanes;
        T* line_to = to.out[k] + i * inner_;
        const bool aligned = reinterpret_cast<uintptr_t>(line_to) % sizeof(Vec<T>) == 0;
        write(line_to, cols, past && aligned,
              [&](int64_t c, int) FASTDL_INLINE_LAMBDA { return load(p + c * line); });
      }
    }
  }

 private:
  FASTDL_INLINE int64_t array_size() const { return width * line * Vec<T>::lanes; }

  int64_t dim_, inner_, arrays_;
  bool in_place_;
};

// column(slices, offset of the first element, stride along dim, lanes) for every vector of columns.
//
// `slices` are copies where every vector of columns is one run: lines of inner at a distance of a
// power of two, as 128 x 128 images have them, would all fall into one set of the caches. in_place:
// out[0] may be in[0] there.
template <typename T, typename Column>
FASTDL_INLINE void for_each_column(int64_t outer, int64_t dim, int64_t inner, Slices<T> slices,
                                   bool in_place, Column&& column) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t vectors = ceil_div(inner, lanes), cost = dim * lanes;
  const ColumnCopies<T> copies(dim, inner, slices, in_place);
  if (copies.width == 0) {
    const int64_t grain = cost < kSliceGrain ? kSliceGrain / (cost > 0 ? cost : 1) : 1;
    return parallel_ranges(outer * vectors, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t left = inner - i % vectors * lanes;
        const int64_t offset = i / vectors * dim * inner + i % vectors * lanes;
        column(slices.at(offset), offset, inner, static_cast<int>(left < lanes ? left : lanes));
      }
    });
  }
  const int64_t tiles = ceil_div(vectors, copies.width);
  const int64_t grain = cost * copies.width < kSliceGrain ? kSliceGrain / (cost * copies.width) : 1;
  const bool past = past_cache<T>(slices.count(), outer * dim * inner);
  parallel_ranges(outer * tiles, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(copies.size());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % tiles * copies.width * lanes;
      const int64_t offset = task / tiles * dim * inner + first;
      const int64_t left = inner - first, most = copies.width * lanes;
      const int64_t cols = left < most ? left : most;
      const Slices<T> copied = copies.load_all(scratch.data(), slices.at(offset), cols);
      for_each_vec<T>(cols, [&](int64_t c, int count) FASTDL_INLINE_LAMBDA {
        column(copied.at(c * copies.line), offset + c, int64_t{lanes}, count);
      });
      copies.store_all(slices.at(offset), copied, cols, past);
    }
  });
}

// The maximum of `lanes` columns.
template <typename T>
FASTDL_INLINE Vec<T> column_max(const T* x, int64_t dim, int64_t stride, int lanes) {
  return lane_max(dim, broadcast(static_cast<T>(-INFINITY)),
                  [&](int64_t i) FASTDL_INLINE_LAMBDA { return load(x + i * stride, lanes); });
}

}  // namespace fastdl::FASTDL_ISA
