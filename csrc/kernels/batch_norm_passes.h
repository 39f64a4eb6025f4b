// How batch_norm cuts an array of (batch, channels, inner) to reduce every channel and to map every
// element, in one of three ways:
//
//   planes, a channel at a time   its second pass finds it in the cache
//   planes, all chunks            the same chunks, spread over the threads when channels are few
//   columns                       planes are tiny (or, in 2-D, single values): the lanes run along
//                                 channels * inner, and blocks of rows make partial sums
//
// A reduction makes a Partial of each chunk or column and a Sum adds them in order; finish(c, sum)
// then gives the terms of channel c that the map works with.
#pragma once

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/batch_norm.h"
#include "kernels/elementwise.h"
#include "kernels/moments.h"

namespace fastdl::FASTDL_ISA {

constexpr int64_t kGrain = 32768;     // elements a block: some 10 us
constexpr int64_t kFewChannels = 16;  // fewer blocks than this would leave threads idle
constexpr int64_t kRows = 128;        // summed in T, in columns
constexpr int64_t kColumns = 256;     // of a block of partial sums

template <typename T, int n>
struct Terms {
  T v[n];
};
template <typename T, int n>
struct VecTerms {
  Vec<T> v[n];
};

template <typename T, int n>
FASTDL_INLINE VecTerms<T, n> broadcast_terms(const Terms<T, n>& terms) {
  VecTerms<T, n> out;
  for (int k = 0; k < n; ++k) out.v[k] = broadcast(terms.v[k]);
  return out;
}

FASTDL_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
FASTDL_INLINE int64_t grain_of(int64_t work) { return work < kGrain ? kGrain / (work + 1) + 1 : 1; }

// Elements of a channel in chunks that fit the L1 cache: pieces of a plane, or several planes.
template <typename T>
class Chunks {
 public:
  FASTDL_INLINE explicit Chunks(BatchNormSizes sizes) : sizes_(sizes), length_(sizes.inner) {
    constexpr int64_t lanes = Vec<T>::lanes;
    if (sizes.batch == 0 || sizes.inner == 0) return;
    if (sizes.inner > kChunk<T>) {
      length_ = ceil_div(ceil_div(sizes.inner, ceil_div(sizes.inner, kChunk<T>)), lanes) * lanes;
      pieces_ = ceil_div(sizes.inner, length_);
    } else {
      planes_ = least(kChunk<T> / sizes.inner, sizes.batch);
    }
    count_ = ceil_div(sizes.batch, planes_) * pieces_;
  }

  FASTDL_INLINE int64_t count() const { return count_; }  // of every channel

  FASTDL_INLINE int64_t elements(int64_t k) const {
    if (pieces_ > 1) return least(length_, sizes_.inner - k % pieces_ * length_);
    return least(planes_, sizes_.batch - k * planes_) * sizes_.inner;
  }

  // f(offset in x, n) for the contiguous pieces of chunk k of channel c.
  template <typename F>
  FASTDL_INLINE void for_each_piece(int64_t c, int64_t k, F&& f) const {
    if (pieces_ > 1) {
      const int64_t begin = k % pieces_ * length_;
      return f(plane(k / pieces_, c) + begin, least(length_, sizes_.inner - begin));
    }
    const int64_t end = least((k + 1) * planes_, sizes_.batch);
    for (int64_t n = k * planes_; n < end; ++n) f(plane(n, c), sizes_.inner);
  }

 private:
  FASTDL_INLINE int64_t plane(int64_t n, int64_t c) const {
    return (n * sizes_.channels + c) * sizes_.inner;
  }

  BatchNormSizes sizes_;
  int64_t length_, pieces_ = 1, planes_ = 1, count_ = 0;
};

template <typename T>
FASTDL_INLINE bool past_cache(BatchNormSizes s) {
  return exceeds_cache(2 * s.batch * s.channels * s.inner * static_cast<int64_t>(sizeof(T)));
}

// Maps the chunk k of channel c.
template <typename T, int n, typename Map>
FASTDL_INLINE void map_chunk(T* out, const Chunks<T>& chunks, int64_t c, int64_t k, bool past,
                             const Terms<T, n>& terms, const Map& map) {
  const VecTerms<T, n> vectors = broadcast_terms(terms);
  chunks.for_each_piece(c, k, [&](int64_t offset, int64_t count) {
    store_map(out + offset, count, past,
              [&](int64_t i, int lanes) { return map(offset + i, lanes, vectors); });
  });
}

// In the order of memory: 1.4 times as fast as chunk by chunk.
template <typename T, int n, typename Map>
void map_planes(T* out, BatchNormSizes sizes, const Terms<T, n>* terms, const Map& map) {
  const int64_t length = least(sizes.inner, kGrain), pieces = ceil_div(sizes.inner, length);
  const bool past = past_cache<T>(sizes);
  const int64_t units = sizes.batch * sizes.channels * pieces;
  parallel_ranges(units, grain_of(length), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t plane = u / pieces, start = u % pieces * length;
      const VecTerms<T, n> vectors = broadcast_terms(terms[plane % sizes.channels]);
      const int64_t offset = plane * sizes.inner + start;
      store_map(out + offset, least(length, sizes.inner - start), past,
                [&](int64_t i, int lanes) { return map(offset + i, lanes, vectors); });
    }
  });
}

template <typename T, int n, typename Map>
void map_columns(T* out, BatchNormSizes sizes, const Terms<T, n>* terms, const Map& map) {
  const int64_t columns = sizes.channels * sizes.inner;
  const Workspace<T> expanded(columns * n);
  T* const lines = expanded.data();
  for (int k = 0; k < n; ++k) {
    for (int64_t j = 0; j < columns; ++j) lines[k * columns + j] = terms[j / sizes.inner].v[k];
  }
  const bool past = past_cache<T>(sizes);
  parallel_ranges(sizes.batch, grain_of(columns), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      store_map(out + r * columns, columns, past, [&](int64_t j, int lanes) {
        VecTerms<T, n> t;
        for (int k = 0; k < n; ++k) t.v[k] = load(lines + k * columns + j, lanes);
        return map(r * columns + j, lanes, t);
      });
    }
  });
}

// out[i] = map(i, lanes, terms of the channel), terms being one for every channel.
template <typename T, int n, typename Map>
FASTDL_INLINE void map_all(T* out, BatchNormSizes sizes, const Terms<T, n>* terms, const Map& map) {
  if (sizes.inner < kBatchNormPlane) return map_columns(out, sizes, terms, map);
  map_planes(out, sizes, terms, map);
}

// A channel after the other: reduced, finished, and mapped from its end, which is still in cache.
template <typename T, typename Reduction, typename Finish, typename Map>
void fused_planes(T* out, BatchNormSizes sizes, const Reduction& reduction, const Finish& finish,
                  const Map& map) {
  const Chunks<T> chunks(sizes);
  const bool past = past_cache<T>(sizes);
  const int64_t grain = grain_of(sizes.batch * sizes.inner);
  parallel_ranges(sizes.channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      typename Reduction::Sum sum;
      for (int64_t k = 0; k < chunks.count(); ++k) {
        const int64_t elements = chunks.elements(k);
        sum.add(reduction.chunk(c, elements, [&](auto&& f) { chunks.for_each_piece(c, k, f); }),
                elements);
      }
      const auto terms = finish(c, sum);
      if (!out) continue;
      for (int64_t k = chunks.count(); k-- > 0;) map_chunk(out, chunks, c, k, past, terms, map);
    }
  });
}

// finished(c, sum) for every channel, the chunks spread over the threads.
template <typename T, typename Reduction, typename Finished>
void reduce_planes(BatchNormSizes sizes, const Reduction& reduction, const Finished& finished) {
  const Chunks<T> chunks(sizes);
  const int64_t count = chunks.count();
  const Workspace<typename Reduction::Partial> partial(sizes.channels * count);
  const int64_t grain = grain_of(count > 0 ? sizes.batch * sizes.inner / count : 0);
  parallel_ranges(sizes.channels * count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i / count, k = i % count;
      partial.data()[i] =
          reduction.chunk(c, chunks.elements(k), [&](auto&& f) { chunks.for_each_piece(c, k, f); });
    }
  });
  for (int64_t c = 0; c < sizes.channels; ++c) {
    typename Reduction::Sum sum;
    for (int64_t k = 0; k < count; ++k) sum.add(partial.data()[c * count + k], chunks.elements(k));
    finished(c, sum);
  }
}

// sums[k * stride + i] += v for v = terms(i, lanes, row)[k], over the rows, for n columns. Eight
// rows at a time, so that the sums are read and written once for them.
template <int count, typename T, typename Terms>
FASTDL_INLINE void add_rows(T* sums, int64_t stride, int64_t n, int64_t rows, Terms&& terms) {
  const auto add = [&]<int group>(int64_t first) {
    for_each_vec<T>(n, [&](int64_t i, int lanes) {
      VecTerms<T, count> sum;
      for (int k = 0; k < count; ++k) sum.v[k] = load(sums + k * stride + i, lanes);
#pragma GCC unroll 8
      for (int r = 0; r < group; ++r) terms(i, lanes, first + r, sum);
      for (int k = 0; k < count; ++k) store(sums + k * stride + i, sum.v[k], lanes);
    });
  };
  int64_t r = 0;
  for (; r + 8 <= rows; r += 8) add.template operator()<8>(r);
  for (; r < rows; ++r) add.template operator()<1>(r);
}

// A tile of rows and columns at a time makes Reduction::kSums sums of each of its columns, in T;
// they are put together in double, many columns at a time.
template <typename T, typename Reduction, typename Finished>
void reduce_columns(BatchNormSizes sizes, const Reduction& reduction, const Finished& finished) {
  const int64_t columns = sizes.channels * sizes.inner;
  const int64_t row_blocks = ceil_div(sizes.batch, kRows), tiles = ceil_div(columns, kColumns);
  constexpr int kSums = Reduction::kSums;
  const Workspace<T> sums(row_blocks * kSums * columns);
  parallel_for(row_blocks * tiles, [&](int64_t tile) {
    const int64_t block = tile / tiles, j = tile % tiles * kColumns;
    reduction.add_tile(sums.data() + block * kSums * columns + j, block * kRows, j,
                       least(kColumns, columns - j), least(kRows, sizes.batch - block * kRows));
  });
  const Workspace<typename Reduction::Partial> totals(columns);
  parallel_ranges(columns, kColumns, [&](int64_t j, int64_t end) {
    reduction.add_blocks(totals.data() + j, sums.data() + j, j, end - j, row_blocks);
  });
  for (int64_t c = 0; c < sizes.channels; ++c) {
    typename Reduction::Sum sum;
    for (int64_t j = c * sizes.inner; j < (c + 1) * sizes.inner; ++j) {
      sum.add(totals.data()[j], sizes.batch);
    }
    finished(c, sum);
  }
}

// Reduces all channels, and then, unless out is null, out[i] = map(i, lanes, terms).
template <int n, typename T, typename Reduction, typename Finish, typename Map>
FASTDL_INLINE void reduce_and_map(T* out, BatchNormSizes sizes, const Reduction& reduction,
                                  const Finish& finish, const Map& map) {
  const bool planes = sizes.inner >= kBatchNormPlane;
  if (planes && sizes.channels >= kFewChannels) {
    return fused_planes(out, sizes, reduction, finish, map);
  }
  const Workspace<Terms<T, n>> terms(sizes.channels);
  const auto finished = [&](int64_t c, const auto& sum) { terms.data()[c] = finish(c, sum); };
  if (planes) {
    reduce_planes<T>(sizes, reduction, finished);
  } else {
    reduce_columns<T>(sizes, reduction, finished);
  }
  if (out) map_all(out, sizes, terms.data(), map);
}

}  // namespace fastdl::FASTDL_ISA
