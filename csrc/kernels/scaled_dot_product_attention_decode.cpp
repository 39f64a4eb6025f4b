// Attention of few queries, as in decoding: key and value are read once, and nothing else matters.
//
// All queries that share a key and a value (L of each of the query heads of a group) go through
// them together. The lanes run along E: the dot products of a query with as many keys as there are
// lanes end in one vector of scores (lane_sums). The keys are cut into pieces of fixed size, for
// all threads to have work (flash decoding, Dao et al. 2023); their results are combined in order.
// Backward makes one such pass too: scores and dp, dkey and dvalue of each key, sums for dquery.
#include <math.h>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/vec_math.h"
#include "kernels/scaled_dot_product_attention.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kPiece = 512;            // keys of a task
constexpr int64_t kBlock = 128;            // keys of a step of the online softmax
constexpr int64_t kGrain = 1 << 16;        // elements of key and value a block of tasks reads
constexpr int64_t kPastCache = 8 << 20;    // gradients beyond are stored past the caches
constexpr int64_t kMaxRows = kDecodeRows;  // queries that go together

// x . rows[i] in lane i < count.
template <bool all, typename T>
FASTDL_INLINE Vec<T> dots(const T* x, const T* rows, int64_t n, int count) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> sum[lanes];
#pragma GCC unroll 16
  for (int i = 0; i < lanes; ++i) sum[i] = zero<T>();
  int64_t e = 0;
  for (; e + lanes <= n; e += lanes) {
    const Vec<T> v = load(x + e);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (all || i < count) sum[i] = fma(v, load(rows + i * n + e), sum[i]);
    }
  }
  if (e < n) {
    const int left = static_cast<int>(n - e);
    const Vec<T> v = load(x + e, left);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (all || i < count) sum[i] = fma(v, load(rows + i * n + e, left), sum[i]);
    }
  }
  return lane_sums(sum);
}

// out[i] = x . rows[i] for 0..count-1; out has room for whole vectors.
template <typename T>
void all_dots(T* out, const T* x, const T* rows, int64_t n, int64_t count) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(out + i, dots<true>(x, rows + i * n, n, lanes));
  if (i < count) store(out + i, dots<false>(x, rows + i * n, n, static_cast<int>(count - i)));
}

// Vectors of sum_j weights[j * step] * rows[j, :], in two sums each, as one FMA waits for another.
template <int Vectors, typename T>
struct Combination {
  Vec<T> v[Vectors];

  FASTDL_INLINE Combination(const T* weights, int64_t step, const T* rows, int64_t stride,
                            int64_t count, int last) {
    constexpr int lanes = Vec<T>::lanes;
    Vec<T> sum[2][Vectors];
#pragma GCC unroll 8
    for (int k = 0; k < Vectors; ++k) sum[0][k] = sum[1][k] = zero<T>();
    const auto add = [&](int half, int64_t j) __attribute__((always_inline)) {
      const Vec<T> weight = broadcast(weights[j * step]);
      const T* row = rows + j * stride;
#pragma GCC unroll 8
      for (int k = 0; k < Vectors; ++k) {
        const Vec<T> x = Vectors == 1 ? load(row, last) : load(row + k * lanes);
        sum[half][k] = fma(weight, x, sum[half][k]);
      }
    };
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      add(0, j);
      add(1, j + 1);
    }
    if (j < count) add(0, j);
#pragma GCC unroll 8
    for (int k = 0; k < Vectors; ++k) v[k] = sum[0][k] + sum[1][k];
  }
};

// put(c, v, lanes) for the vectors v = sum_j weights[j * step] * rows[j, c..] of a row of n.
template <typename T, typename Put>
FASTDL_INLINE void combine(const T* weights, int64_t step, const T* rows, int64_t stride,
                           int64_t count, int64_t n, Put&& put) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t c = 0;
  for (; c + 4 * lanes <= n; c += 4 * lanes) {
    const Combination<4, T> sums(weights, step, rows + c, stride, count, lanes);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) put(c + k * lanes, sums.v[k], lanes);
  }
  for (; c < n; c += lanes) {
    const int left = static_cast<int>(smaller(n - c, lanes));
    put(c, Combination<1, T>(weights, step, rows + c, stride, count, left).v[0], left);
  }
}

// The queries of a group, one after the other: `row` is query `index` of a batch.
template <typename T>
struct Rows {
  const Attention<T>& a;
  const int64_t* members;
  int64_t count;
  const T *key, *value;

  FASTDL_INLINE Rows(const Attention<T>& a, const AttentionGroups& groups, int64_t group)
      : a(a),
        members(groups.members + groups.starts[group]),
        count((groups.starts[group + 1] - groups.starts[group]) * a.L) {
    const AttentionBatch& first = a.batches[members[0]];
    key = a.key + first.key * a.S * a.E;
    value = a.value + first.value * a.S * a.Ev;
  }
  FASTDL_INLINE const AttentionBatch& batch(int64_t row) const {
    return a.batches[members[row / a.L]];
  }
  FASTDL_INLINE int64_t index(int64_t row) const { return row % a.L; }
  FASTDL_INLINE int64_t query(int64_t row) const { return batch(row).query * a.L + index(row); }
  FASTDL_INLINE int64_t scores(int64_t row) const { return batch(row).scores * a.L + index(row); }
  FASTDL_INLINE int64_t y(int64_t row) const { return members[row / a.L] * a.L + index(row); }

  // to[row, :] = factor * from[at(row), :], in whole vectors.
  template <typename At>
  FASTDL_INLINE void pack(T* to, const T* from, int64_t n, T factor, At&& at) const {
    for (int64_t row = 0; row < count; ++row) {
      const T* x = from + at(row) * n;
      for (int64_t e = 0; e < n; e += Vec<T>::lanes) {
        const Vec<T> v = load(x + e, static_cast<int>(smaller(n - e, Vec<T>::lanes)));
        store(to + row * round_up(n, Vec<T>::lanes) + e, v * broadcast(factor));
      }
    }
  }

  // scores[0..count - 1] are those of keys first, first + 1, ...; what lies after becomes -inf.
  FASTDL_INLINE void mask(T* scores, int64_t row, int64_t first, int64_t keys) const {
    constexpr T out = static_cast<T>(-INFINITY);
    const int64_t begin =
        batch(row).mask + index(row) * a.mask_row_stride + first * a.mask_col_stride;
    if (a.mask) {
      for (int64_t j = 0; j < keys; ++j) scores[j] += a.mask[begin + j * a.mask_col_stride];
    } else if (a.keep) {
      for (int64_t j = 0; j < keys; ++j) {
        if (!a.keep[begin + j * a.mask_col_stride]) scores[j] += out;
      }
    }
    if (a.is_causal && keys > index(row) + 1 - first) {
      keys = index(row) + 1 > first ? index(row) + 1 - first : 0;
    }
    for (int64_t j = keys; j < kBlock; ++j) scores[j] = out;
  }
};

// What a piece of keys adds to a query: its output, not yet divided by the sum.
template <typename T>
struct Partial {
  T *largest, *sum, *output;
};

template <typename T>
struct Partials {
  int64_t width, pieces;
  Workspace<T> data;

  Partials(int64_t groups, int64_t pieces, int64_t n)
      : width(round_up(n, Vec<T>::lanes)),
        pieces(pieces),
        data(groups * pieces * kMaxRows * (width + 2)) {}
  FASTDL_INLINE Partial<T> at(int64_t group, int64_t piece, int64_t row) const {
    T* p = data.data() + ((group * pieces + piece) * kMaxRows + row) * (width + 2);
    return {p + width, p + width + 1, p};
  }
};

// One step of the online softmax: scores become exp(s - largest).
template <typename T>
FASTDL_INLINE T softmax_step(T* scores, T* largest, T* sum) {
  Vec<T> most = broadcast(*largest);
  for (int64_t j = 0; j < kBlock; j += Vec<T>::lanes) most = max(load(scores + j), most);
  const T before = *largest;
  *largest = reduce_max(most);
  // A query that sees no key so far has -inf, and exp(-inf - 0) = 0 is what it needs.
  const T shift = *largest == static_cast<T>(-INFINITY) ? T(0) : *largest;
  Vec<T> total = zero<T>();
  for (int64_t j = 0; j < kBlock; j += Vec<T>::lanes) {
    const Vec<T> e = exp_normal(load(scores + j) - broadcast(shift));
    store(scores + j, e);
    total += e;
  }
  T decay[Vec<T>::lanes];
  store(decay, exp_normal(broadcast(before) - broadcast(shift)));
  *sum = *sum * decay[0] + reduce_add(total);
  return decay[0];
}

template <typename T>
void forward_piece(const Partials<T>& partials, const Rows<T>& rows, int64_t group, int64_t piece,
                   T* scratch) {
  const Attention<T>& a = rows.a;
  const int64_t width = round_up(a.E, Vec<T>::lanes);
  T *query = scratch, *scores = scratch + kMaxRows * width;
  rows.pack(query, a.query, a.E, a.scale, [&](int64_t row) { return rows.query(row); });
  for (int64_t row = 0; row < rows.count; ++row) {
    const Partial<T> p = partials.at(group, piece, row);
    *p.largest = static_cast<T>(-INFINITY);
    *p.sum = 0;
    for (int64_t c = 0; c < partials.width; ++c) p.output[c] = 0;
  }
  const int64_t end = smaller((piece + 1) * kPiece, a.S);
  for (int64_t first = piece * kPiece; first < end; first += kBlock) {
    const int64_t keys = smaller(kBlock, end - first);
    for (int64_t row = 0; row < rows.count; ++row) {
      T* s = scores + row * kBlock;
      all_dots(s, query + row * width, rows.key + first * a.E, a.E, keys);
      rows.mask(s, row, first, keys);
    }
    for (int64_t row = 0; row < rows.count; ++row) {
      const Partial<T> p = partials.at(group, piece, row);
      T* s = scores + row * kBlock;
      const Vec<T> decay = broadcast(softmax_step(s, p.largest, p.sum));
      combine(s, 1, rows.value + first * a.Ev, a.Ev, keys, a.Ev,
              [=](int64_t c, Vec<T> v, int) __attribute__((always_inline)) {
                store(p.output + c, fma(load(p.output + c), decay, v));
              });
    }
  }
}

// y = sum over the pieces of exp(largest - the largest of all) * output, over the sum of all sums.
template <typename T>
void combine_pieces(T* y, T* logsumexp, const Partials<T>& partials, int64_t group, int64_t row,
                    int64_t n) {
  T largest = static_cast<T>(-INFINITY);
  for (int64_t i = 0; i < partials.pieces; ++i) {
    const T m = *partials.at(group, i, row).largest;
    largest = m > largest ? m : largest;
  }
  const T shift = largest == static_cast<T>(-INFINITY) ? T(0) : largest;
  double sum = 0;
  for (int64_t i = 0; i < partials.pieces; ++i) {
    const Partial<T> p = partials.at(group, i, row);
    T factor[Vec<T>::lanes];
    store(factor, exp_normal(broadcast(*p.largest) - broadcast(shift)));
    *p.largest = factor[0];
    sum += static_cast<double>(*p.sum) * static_cast<double>(factor[0]);
  }
  const double total = sum == 0 ? 1 : sum;  // no key to attend to
  const Vec<T> scale = broadcast(static_cast<T>(1 / total));
  for_each_vec<T>(n, [&](int64_t c, int lanes) {
    Vec<T> v = zero<T>();
    for (int64_t i = 0; i < partials.pieces; ++i) {
      const Partial<T> p = partials.at(group, i, row);
      v = fma(broadcast(*p.largest), load(p.output + c), v);
    }
    store(y + c, v * scale, lanes);
  });
  if (logsumexp) *logsumexp = static_cast<T>((sum == 0 ? 0.0 : double{shift}) + ::log(total));
}

// task(group, piece) for all of them.
template <typename T, typename Task>
FASTDL_INLINE void for_each_piece(const Attention<T>& a, int64_t groups, int64_t pieces,
                                  Task&& task) {
  const int64_t cost = smaller(kPiece, a.S) * (a.E + a.Ev) + 1;
  const int64_t grain = cost < kGrain ? kGrain / cost : 1;
  parallel_ranges(groups * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(i / pieces, i % pieces);
  });
}

// task(group), which puts the pieces of a group together.
template <typename Task>
FASTDL_INLINE void parallel_for_groups(int64_t groups, Task&& task) {
  parallel_ranges(groups, 16, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) task(group);
  });
}

FASTDL_INLINE int64_t pieces_of(int64_t keys) { return keys > kPiece ? ceil_div(keys, kPiece) : 1; }

template <typename T>
void forward(T* y, T* logsumexp, const Attention<T>& a, const AttentionGroups& groups) {
  const int64_t pieces = pieces_of(a.S);
  const Partials<T> partials(groups.count, pieces, a.Ev);
  for_each_piece(a, groups.count, pieces, [&](int64_t group, int64_t piece) {
    const Workspace<T> scratch(kMaxRows * (round_up(a.E, Vec<T>::lanes) + kBlock));
    forward_piece(partials, Rows<T>(a, groups, group), group, piece, scratch.data());
  });
  parallel_for_groups(groups.count, [&](int64_t group) {
    const Rows<T> rows(a, groups, group);
    for (int64_t row = 0; row < rows.count; ++row) {
      T* lse = rows.batch(row).writes_logsumexp ? logsumexp + rows.scores(row) : nullptr;
      combine_pieces(y + rows.y(row) * a.Ev, lse, partials, group, row, a.Ev);
    }
  });
}

// to[0..n-1] = factor * sum_j weights[j * step] * rows[j, :]
template <typename T>
FASTDL_INLINE void write_combination(T* to, const T* weights, int64_t step, const T* rows,
                                     int64_t stride, int64_t count, int64_t n, bool past) {
  combine(weights, step, rows, stride, count, n,
          [=](int64_t c, Vec<T> v, int lanes) __attribute__((always_inline)) {
            if (past) {
              stream(to + c, v);
            } else {
              store(to + c, v, lanes);
            }
          });
}

template <typename T>
struct DecodeGradients {
  const Attention<T>& a;
  const AttentionGradient<T>& g;
  T *dkey, *dvalue;             // or null
  const Partials<T>& partials;  // sums for dquery

  // Rows of n values of a large array, all of them aligned to vectors.
  FASTDL_INLINE bool past_cache(const T* x, int64_t groups, int64_t n) const {
    return groups * a.S * n * static_cast<int64_t>(sizeof(T)) > kPastCache &&
           n % Vec<T>::lanes == 0 && reinterpret_cast<uintptr_t>(x) % sizeof(Vec<T>) == 0;
  }

  static int64_t scratch_size(const Attention<T>& a) {
    return kMaxRows * (round_up(a.E, Vec<T>::lanes) + round_up(a.Ev, Vec<T>::lanes) + 2 * kBlock);
  }

  void piece(const AttentionGroups& groups, int64_t group, int64_t piece, T* scratch) const {
    const Rows<T> rows(a, groups, group);
    const int64_t width = round_up(a.E, Vec<T>::lanes), width_v = round_up(a.Ev, Vec<T>::lanes);
    const bool past_key = past_cache(dkey, groups.count, a.E);
    const bool past_value = past_cache(dvalue, groups.count, a.Ev);
    T *query = scratch, *dy = query + kMaxRows * width;
    T *p = dy + kMaxRows * width_v, *ds = p + kMaxRows * kBlock;
    rows.pack(query, a.query, a.E, a.scale, [&](int64_t row) { return rows.query(row); });
    rows.pack(dy, g.dy, a.Ev, T(1), [&](int64_t row) { return rows.y(row); });
    for (int64_t row = 0; row < rows.count; ++row) {
      T* sum = partials.at(group, piece, row).output;
      for (int64_t c = 0; c < width; ++c) sum[c] = 0;
    }
    const int64_t end = smaller((piece + 1) * kPiece, a.S);
    for (int64_t first = piece * kPiece; first < end; first += kBlock) {
      const int64_t keys = smaller(kBlock, end - first);
      const T *key = rows.key + first * a.E, *value = rows.value + first * a.Ev;
      for (int64_t row = 0; row < rows.count; ++row) {
        T *pr = p + row * kBlock, *dsr = ds + row * kBlock;
        all_dots(pr, query + row * width, key, a.E, keys);
        rows.mask(pr, row, first, keys);
        all_dots(dsr, dy + row * width_v, value, a.Ev, keys);
        const Vec<T> lse = broadcast(g.logsumexp[rows.scores(row)]);
        const Vec<T> delta = broadcast(g.delta[rows.y(row)]);
        for (int64_t j = 0; j < keys; j += Vec<T>::lanes) {
          const Vec<T> e = exp_normal(load(pr + j) - lse);
          store(dsr + j, e * (load(dsr + j) - delta));
          store(pr + j, e);
        }
        T* sum = partials.at(group, piece, row).output;
        combine(dsr, 1, key, a.E, keys, a.E,
                [=](int64_t c, Vec<T> v, int)
                    __attribute__((always_inline)) { store(sum + c, load(sum + c) + v); });
      }
      for (int64_t j = 0; j < keys; ++j) {
        const int64_t at = (group * a.S) + first + j;
        if (dkey) {
          write_combination(dkey + at * a.E, ds + j, kBlock, query, width, rows.count, a.E,
                            past_key);
        }
        if (dvalue) {
          write_combination(dvalue + at * a.Ev, p + j, kBlock, dy, width_v, rows.count, a.Ev,
                            past_value);
        }
      }
    }
  }
};

template <typename T>
void backward(T* dquery, T* dkey, T* dvalue, const Attention<T>& a, const AttentionGradient<T>& g,
              const AttentionGroups& groups) {
  const int64_t pieces = pieces_of(a.S);
  const Partials<T> partials(groups.count, pieces, a.E);
  const DecodeGradients<T> gradients{a, g, dkey, dvalue, partials};
  for_each_piece(a, groups.count, pieces, [&](int64_t group, int64_t piece) {
    const Workspace<T> scratch(DecodeGradients<T>::scratch_size(a));
    gradients.piece(groups, group, piece, scratch.data());
  });
  if (!dquery) return;
  parallel_for_groups(groups.count, [&](int64_t group) {
    const Rows<T> rows(a, groups, group);
    for (int64_t row = 0; row < rows.count; ++row) {
      T* to = dquery + rows.query(row) * a.E;
      for_each_vec<T>(a.E, [&](int64_t c, int lanes) {
        Vec<T> v = zero<T>();
        for (int64_t i = 0; i < pieces; ++i) v += load(partials.at(group, i, row).output + c);
        store(to + c, v * broadcast(a.scale), lanes);
      });
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AttentionDecodeKernels, attention_decode_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
