// What the kernels of attention share: blocks of the scores, their masks and dropout.
#pragma once

#include <math.h>

#include "core/multiply.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "core/vec_math.h"
#include "kernels/scaled_dot_product_attention.h"

namespace fastdl::FASTDL_ISA {

constexpr int64_t kOwned = kAttentionBlock;  // a tile of 64 x 128 floats is 32 KB

// Rows first..first + count - 1 of the scores or of the keys.
struct Span {
  int64_t first, count;
  FASTDL_INLINE int64_t end() const { return first + count; }
};

FASTDL_INLINE Span block_of(int64_t index, int64_t size, int64_t n) {
  return {index * size, smaller(size, n - index * size)};
}

// task(i) for i = 0..n-1, several a block if `cost`, the multiplications of one, is small.
template <typename Task>
FASTDL_INLINE void parallel_tasks(int64_t n, double cost, Task&& task) {
  constexpr double kGrain = 1e6;  // multiplications a block: some 10 us
  const int64_t grain = cost < kGrain ? static_cast<int64_t>(kGrain / (cost + 1)) : 1;
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(i);
  });
}

// to[i] = factor * from[i]; from has room for whole vectors.
template <typename E, typename T>
FASTDL_INLINE void write_row(E* to, const T* from, int64_t n, T factor) {
  for_each_vec<T>(
      n, [=](int64_t i, int lanes) { store(to + i, load(from + i) * broadcast(factor), lanes); });
}

// A query's results: `output` is the sum of exp(score - largest) * value, `sum` that of the
// factors.
template <typename E, typename T>
FASTDL_INLINE void finish_query(E* y, T* logsumexp, const T* output, int64_t n, T largest, T sum) {
  const T total = sum == 0 ? T(1) : sum;  // no key to attend to
  write_row(y, output, n, 1 / total);
  if (!logsumexp) return;
  const double m = sum == 0 ? 0.0 : static_cast<double>(largest);
  *logsumexp = static_cast<T>(m + ::log(static_cast<double>(total)));
}

template <typename T>
void fill(T* p, T value, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = value;
}

template <typename T>
FASTDL_INLINE SumOf<T> widened(const T* p) {
  if constexpr (std::is_same_v<T, SumOf<T>>) {
    return *p;
  } else {
    return reduce_add(load(p, 1));
  }
}

// Scores of a tile: rows run along the stream, columns along what is owned, one of them queries and
// the other keys. Rows lie `Stride` apart.
template <typename E, bool by_keys, int64_t Stride = kOwned>
struct ScoreTile {
  using T = SumOf<E>;
  const Attention<E>& a;
  const AttentionBatch& batch;
  Span owned;
  int64_t width;  // owned.count in whole vectors

  FASTDL_INLINE ScoreTile(const Attention<E>& a, const AttentionBatch& batch, Span owned)
      : a(a), batch(batch), owned(owned), width(round_up(owned.count, Vec<T>::lanes)) {}

  // The rows that see something of what is owned, and may be seen by it.
  FASTDL_INLINE Span stream() const {
    if (by_keys) {
      const int64_t first = a.is_causal ? smaller(owned.first, a.L) : 0;
      return {first, a.L - first};
    }
    return {0, a.is_causal ? smaller(owned.end(), a.S) : a.S};
  }

  // step(r, c) for every vector of the tile.
  template <typename Step>
  FASTDL_INLINE void for_each(int64_t rows, Step&& step) const {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; c += Vec<T>::lanes) step(r, c);
    }
  }

  // tile[r, c] = sum_e stream[r, e] * packed[e, c]
  FASTDL_INLINE void product(T* tile, const T* stream, Span rows, const T* packed,
                             int64_t n) const {
    multiply<T>({tile, Stride}, {stream + rows.first * n, n, 1}, {packed, Stride}, rows.count,
                width, n);
  }

  // How many of some keys count for any of the queries c..c + lanes - 1 of a block: all, or where
  // causal those up to the last query.
  FASTDL_INLINE int64_t seen(Span keys, int64_t c) const {
    return a.is_causal ? smaller(keys.count, owned.first + c + Vec<T>::lanes - keys.first)
                       : keys.count;
  }

  // The same product for a block of queries, but where no query of a vector sees the key.
  FASTDL_INLINE void seen_product(T* tile, const T* key, Span keys, const T* packed,
                                  int64_t n) const {
    const int64_t all = seen(keys, 0);
    product(tile, key, {keys.first, all}, packed, n);
    for (int64_t r = all, c = Vec<T>::lanes; r < keys.count;
         r += Vec<T>::lanes, c += Vec<T>::lanes) {
      multiply<T>({tile + r * Stride + c, Stride}, {key + (keys.first + r) * n, n, 1},
                  {packed + c, Stride}, smaller(Vec<T>::lanes, keys.count - r), width - c, n);
    }
  }

  FASTDL_INLINE void mask(T* tile, Span rows) const {
    if (a.is_causal) return mask_causal(tile, rows);
    if (a.mask)
      return add_mask(tile, rows, [&](int64_t at) { return widened(a.mask + batch.mask + at); });
    if (a.keep) {
      return add_mask(tile, rows, [&](int64_t at) {
        return a.keep[batch.mask + at] ? T(0) : static_cast<T>(-INFINITY);
      });
    }
  }

  // Key j counts for query i if j <= i.
  FASTDL_INLINE void mask_causal(T* tile, Span rows) const {
    const Span queries = by_keys ? rows : owned, keys = by_keys ? owned : rows;
    if (keys.end() - 1 <= queries.first) return;
    T ids[Stride];
    for (int64_t c = 0; c < Stride; ++c) ids[c] = static_cast<T>(c);
    for_each(rows.count, [&](int64_t r, int64_t c) {
      const Vec<T> diagonal = broadcast(static_cast<T>(rows.first + r - owned.first));
      const Mask<T> kept = by_keys ? load(ids + c) <= diagonal : load(ids + c) >= diagonal;
      T* p = tile + r * Stride + c;
      store(p, select(kept, load(p), broadcast(static_cast<T>(-INFINITY))));
    });
  }

  template <typename At>
  FASTDL_INLINE void add_mask(T* tile, Span rows, At&& at) const {
    const int64_t row = by_keys ? a.mask_row_stride : a.mask_col_stride;
    const int64_t col = by_keys ? a.mask_col_stride : a.mask_row_stride;
    T line[Stride] = {};
    for (int64_t r = 0; r < rows.count; ++r) {
      const int64_t begin = (rows.first + r) * row + owned.first * col;
      for (int64_t c = 0; c < owned.count; ++c) line[c] = at(begin + c * col);
      for (int64_t c = 0; c < width; c += Vec<T>::lanes) {
        T* p = tile + r * Stride + c;
        store(p, load(p) + load(line + c));
      }
    }
  }

  // The factors of the dropout of a tile.
  FASTDL_INLINE void dropout(T* factors, Span rows) const {
    const Span queries = by_keys ? rows : owned, keys = by_keys ? owned : rows;
    const int64_t query_step = by_keys ? Stride : 1, key_step = by_keys ? 1 : Stride;
    for (int64_t i = 0; i < queries.count; ++i) {
      const int64_t first = (batch.scores * a.L + queries.first + i) * a.S + keys.first;
      T* to = factors + i * query_step;
      for_dropout_factors<T>(*a.dropout, static_cast<uint64_t>(first), keys.count,
                             [&](int64_t j, const T* from, int64_t n) {
                               for (int64_t s = 0; s < n; ++s) to[(j + s) * key_step] = from[s];
                             });
    }
  }
};

template <typename T>
double pair_cost(const Attention<T>& a) {  // of an owned block with all of the other operand
  return static_cast<double>(kOwned) * static_cast<double>(a.is_causal ? a.S / 2 : a.S) *
         static_cast<double>(a.E + a.Ev);
}

}  // namespace fastdl::FASTDL_ISA
