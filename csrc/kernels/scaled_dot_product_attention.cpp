// y = softmax(scale * query key^T + mask) value, and its gradients, without the (L, S) scores in
// memory: FlashAttention (Dao et al. 2022), with the blocks of FlashAttention-2 (Dao 2023).
//
// A block of rows of one operand is owned: forward and dquery own queries, dkey and dvalue own
// keys. It is packed transposed, so that the lanes run along it, and the other operand streams past
// as it lies, its elements broadcast:  tile[r, c] = sum_e stream[r, e] * owned[e, c].  Statistics
// of an owned query then stay in lanes, nothing is summed across them, and a tile is also, as it
// lies, the transposed left operand of the second product,  sum_r tile[r, c] * stream[r, :].
// Backward makes the probabilities again from logsumexp: seven products in all, each result in one
// block alone; or five, where there are heads enough to give each to one thread.
#include "kernels/scaled_dot_product_attention.h"

#include "core/buffer_pool.h"
#include "core/reduce.h"
#include "kernels/scaled_dot_product_attention_block.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kStream = 128;  // also bounds the length of float sums

// to[e, c] = factor * from[c, e], 0 beyond the rows of from.
template <typename T>
void pack_transposed(T* to, const T* from, int64_t rows, int64_t n, T factor) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t c = 0; c < rows; c += lanes) {
    for_each_vec<T>(n, [&](int64_t e, int left) {
      Vec<T> v[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        v[i] = c + i < rows ? load(from + (c + i) * n + e, left) * broadcast(factor) : zero<T>();
      }
      interleave(v);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        if (i < left) store(to + (e + i) * kOwned + c, v[i]);
      }
    });
  }
}

// One step of the online softmax, on the scores of some more keys: tile becomes exp(s - largest),
// largest and sum those of all keys so far, factor what earlier sums must be multiplied by.
template <typename T>
void softmax_step(T* tile, const ScoreTile<T, false>& tiles, Span keys, T* largest, T* sum,
                  T* factor) {
  for (int64_t c = 0; c < tiles.width; c += Vec<T>::lanes) {
    const int64_t rows = tiles.seen(keys, c);
    const Vec<T> before = load(largest + c);
    const Vec<T> m = lane_max(
        rows, before, [=](int64_t r) FASTDL_INLINE_LAMBDA { return load(tile + r * kOwned + c); });
    // A query that sees no key so far has m = -inf, and exp(-inf - 0) = 0 is what it needs.
    const Vec<T> shift = select(m == broadcast(static_cast<T>(-INFINITY)), zero<T>(), m);
    const Vec<T> total = blocked_lane_sum<T>(rows, [=](int64_t r) FASTDL_INLINE_LAMBDA {
      T* p = tile + r * kOwned + c;
      const Vec<T> e = exp_normal(load(p) - shift);
      store(p, e);
      return e;
    });
    const Vec<T> decay = exp_normal(before - shift);
    store(largest + c, m);
    store(factor + c, decay);
    store(sum + c, fma(load(sum + c), decay, total));
  }
}

template <typename T>
void forward_block(T* y, T* logsumexp, const Attention<T>& a, const AttentionBatch& batch,
                   Span queries, T* scratch) {
  const ScoreTile<T, false> tiles(a, batch, queries);
  const int64_t width = round_up(a.Ev, Vec<T>::lanes);
  T* packed = scratch;
  T* tile = packed + kOwned * a.E;
  T* factors = tile + kOwned * kStream;
  T* output = factors + kOwned * kStream;
  pack_transposed(packed, a.query + (batch.query * a.L + queries.first) * a.E, queries.count, a.E,
                  a.scale);
  T largest[kOwned], sum[kOwned] = {}, factor[kOwned];
  fill(largest, static_cast<T>(-INFINITY), kOwned);
  fill(output, T(0), queries.count * width);
  const T* key = a.key + batch.key * a.S * a.E;
  const T* value = a.value + batch.value * a.S * a.Ev;
  const Span all = tiles.stream();
  for (int64_t first = 0; first < all.count; first += kStream) {
    const Span keys = {first, smaller(kStream, all.count - first)};
    tiles.seen_product(tile, key, keys, packed, a.E);
    tiles.mask(tile, keys);
    softmax_step(tile, tiles, keys, largest, sum, factor);
    if (a.dropout) {
      tiles.dropout(factors, keys);
      tiles.for_each(keys.count, [&](int64_t r, int64_t c) {
        const int64_t at = r * kOwned + c;
        store(tile + at, load(tile + at) * load(factors + at));
      });
    }
    const int64_t step = tiles.seen(keys, 0) < keys.count ? Vec<T>::lanes : kOwned;
    for (int64_t c = 0; c < queries.count; c += step) {
      multiply_add<T>({output + c * width, width}, factor + c, {tile + c, 1, kOwned},
                      {value + first * a.Ev, a.Ev}, smaller(step, queries.count - c), a.Ev,
                      tiles.seen(keys, c));
    }
  }
  for (int64_t c = 0; c < queries.count; ++c) {
    const int64_t query = queries.first + c;
    finish_query(y + query * a.Ev, logsumexp ? logsumexp + query : nullptr, output + c * width,
                 a.Ev, largest[c], sum[c]);
  }
}

template <typename T>
int64_t forward_scratch(const Attention<T>& a) {
  return kOwned * (a.E + 2 * kStream + round_up(a.Ev, Vec<T>::lanes));
}

template <typename T>
void forward(T* y, T* logsumexp, const Attention<T>& a) {
  const int64_t blocks = ceil_div(a.L, kOwned);
  parallel_tasks(a.batch_count * blocks, pair_cost(a), [&](int64_t task) {
    const Workspace<T> scratch(forward_scratch(a));
    const int64_t b = task / blocks;
    const AttentionBatch& batch = a.batches[b];
    T* lse = batch.writes_logsumexp ? logsumexp + batch.scores * a.L : nullptr;
    // The last block first: when causal it takes longest.
    forward_block(y + b * a.L * a.Ev, lse, a, batch,
                  block_of(blocks - 1 - task % blocks, kOwned, a.L), scratch.data());
  });
}

template <typename T>
void row_dots(T* delta, const T* dy, const T* y, int64_t rows, int64_t n) {
  parallel_tasks(rows, static_cast<double>(n), [=](int64_t r) {
    delta[r] = static_cast<T>(blocked_sum<T>(n, [=](int64_t i, int lanes) {
      return load(dy + r * n + i, lanes) * load(y + r * n + i, lanes);
    }));
  });
}

// Gradients of the tiles between an owned block and its stream.
template <typename T, bool by_keys>
struct GradientTiles : ScoreTile<T, by_keys> {
  using Base = ScoreTile<T, by_keys>;
  using Base::a, Base::batch, Base::owned, Base::width;
  const T *logsumexp, *delta;     // of query 0
  const T *stream_x, *stream_dy;  // query and dy, or key and value: row 0 of what streams
  T *packed_x, *packed_dy;        // their counterparts that are owned
  T *p, *ds, *factors;            // tiles: probabilities after dropout, gradient of the scores
  T owned_logsumexp[kOwned] = {}, owned_delta[kOwned] = {};

  static int64_t scratch(const Attention<T>& a) { return kOwned * (a.E + a.Ev + 3 * kStream); }

  GradientTiles(const Attention<T>& a, const AttentionGradient<T>& g, int64_t b, Span owned,
                T* scratch)
      : Base(a, a.batches[b], owned),
        logsumexp(g.logsumexp + batch.scores * a.L),
        delta(g.delta + b * a.L) {
    const T *query = a.query + batch.query * a.L * a.E, *dy = g.dy + b * a.L * a.Ev;
    const T *key = a.key + batch.key * a.S * a.E, *value = a.value + batch.value * a.S * a.Ev;
    stream_x = by_keys ? query : key;
    stream_dy = by_keys ? dy : value;
    packed_x = scratch;
    packed_dy = packed_x + kOwned * a.E;
    p = packed_dy + kOwned * a.Ev;
    ds = p + kOwned * kStream;
    factors = ds + kOwned * kStream;
    pack_transposed(packed_x, (by_keys ? key : query) + owned.first * a.E, owned.count, a.E,
                    a.scale);
    pack_transposed(packed_dy, (by_keys ? value : dy) + owned.first * a.Ev, owned.count, a.Ev,
                    T(1));
    if (by_keys) return;
    for (int64_t c = 0; c < owned.count; ++c) {
      owned_logsumexp[c] = logsumexp[owned.first + c];
      owned_delta[c] = delta[owned.first + c];
    }
  }

  // p = exp(s - logsumexp) * factors,  ds = exp(s - logsumexp) * (dy value^T * factors - delta)
  void compute(Span rows) {
    this->product(p, stream_x, rows, packed_x, a.E);
    this->mask(p, rows);
    this->product(ds, stream_dy, rows, packed_dy, a.Ev);
    if (a.dropout) this->dropout(factors, rows);
    this->for_each(rows.count, [&](int64_t r, int64_t c) {
      const int64_t at = r * kOwned + c, row = rows.first + r;
      const Vec<T> lse = by_keys ? broadcast(logsumexp[row]) : load(owned_logsumexp + c);
      const Vec<T> d = by_keys ? broadcast(delta[row]) : load(owned_delta + c);
      const Vec<T> factor = a.dropout ? load(factors + at) : broadcast(T(1));
      const Vec<T> e = exp_normal(load(p + at) - lse);
      store(ds + at, e * (load(ds + at) * factor - d));
      store(p + at, e * factor);
    });
  }
};

// dx, of the query or key that is owned, and dvalue (or null):
//   dx = scale * sum over the group's batches of ds stream_x,   dvalue = ... p^T stream_dy
// For one block of what is owned; its part of ds key is added to dquery, if it is not null, whose
// rows are whole vectors.
template <typename T, bool by_keys>
void backward_block(T* dx, T* dvalue, T* dquery, const Attention<T>& a,
                    const AttentionGradient<T>& g, const AttentionGroups& groups, int64_t group,
                    int64_t block) {
  using Gradients = GradientTiles<T, by_keys>;
  const int64_t n = by_keys ? a.S : a.L;
  const int64_t width_x = round_up(a.E, Vec<T>::lanes), width_v = round_up(a.Ev, Vec<T>::lanes);
  T ones[kStream];
  fill(ones, T(1), kStream);
  const Workspace<T> scratch(Gradients::scratch(a) + kOwned * (width_x + width_v));
  T* sum_x = scratch.data() + Gradients::scratch(a);
  T* sum_v = sum_x + kOwned * width_x;
  fill(sum_x, T(0), kOwned * (width_x + width_v));
  const Span owned = block_of(block, kOwned, n);
  for (int64_t i = groups.starts[group]; i < groups.starts[group + 1]; ++i) {
    Gradients tiles(a, g, groups.members[i], owned, scratch.data());
    const Span all = tiles.stream();
    for (int64_t first = all.first; first < all.end(); first += kStream) {
      const Span rows = {first, smaller(kStream, all.end() - first)};
      tiles.compute(rows);
      if (dx) {
        multiply_add<T>({sum_x, width_x}, ones, {tiles.ds, 1, kOwned},
                        {tiles.stream_x + first * a.E, a.E}, owned.count, a.E, rows.count);
      }
      if (dvalue) {
        multiply_add<T>({sum_v, width_v}, ones, {tiles.p, 1, kOwned},
                        {tiles.stream_dy + first * a.Ev, a.Ev}, owned.count, a.Ev, rows.count);
      }
      if (dquery) {
        multiply_add<T>({dquery + (tiles.batch.query * a.L + first) * a.E, a.E}, ones,
                        {tiles.ds, kOwned, 1},
                        {a.key + (tiles.batch.key * a.S + owned.first) * a.E, a.E}, rows.count, a.E,
                        owned.count);
      }
    }
  }
  for (int64_t c = 0; c < owned.count; ++c) {
    const int64_t row = group * n + owned.first + c;
    if (dx) write_row(dx + row * a.E, sum_x + c * width_x, a.E, a.scale);
    if (dvalue) write_row(dvalue + row * a.Ev, sum_v + c * width_v, a.Ev, T(1));
  }
}

template <typename T, bool by_keys>
void backward_rows(T* dx, T* dvalue, const Attention<T>& a, const AttentionGradient<T>& g,
                   const AttentionGroups& groups) {
  const int64_t blocks = ceil_div(by_keys ? a.S : a.L, kOwned);
  parallel_tasks(groups.count * blocks, pair_cost(a), [&](int64_t task) {
    backward_block<T, by_keys>(dx, dvalue, nullptr, a, g, groups, task / blocks, task % blocks);
  });
}

template <typename T>
void backward_query(T* dquery, const Attention<T>& a, const AttentionGradient<T>& g,
                    const AttentionGroups& groups) {
  backward_rows<T, false>(dquery, nullptr, a, g, groups);
}

template <typename T>
void backward_key_value(T* dkey, T* dvalue, const Attention<T>& a, const AttentionGradient<T>& g,
                        const AttentionGroups& groups) {
  backward_rows<T, true>(dkey, dvalue, a, g, groups);
}

// A task is every parts-th block of a group's keys, so that causal ones are alike; in order, they
// add to the part's dquery, and queries need no pass of their own.
template <typename T>
void backward_all(T* dquery, T* dkey, T* dvalue, T* partial, int64_t parts, const Attention<T>& a,
                  const AttentionGradient<T>& g, const AttentionGroups& groups) {
  const int64_t blocks = ceil_div(a.S, kOwned), rows = a.L * a.E, size = a.batch_count * rows;
  const double cost = pair_cost(a) * static_cast<double>(ceil_div(blocks, parts));
  parallel_tasks(groups.count * parts, cost, [&](int64_t task) {
    const int64_t group = task / parts, part = task % parts;
    T* sum = part == 0 ? dquery : partial + (part - 1) * size;
    for (int64_t i = groups.starts[group]; i < groups.starts[group + 1]; ++i) {
      fill(sum + a.batches[groups.members[i]].query * rows, T(0), rows);
    }
    for (int64_t block = part; block < blocks; block += parts) {
      backward_block<T, true>(dkey, dvalue, sum, a, g, groups, group, block);
    }
  });
  parallel_tasks(a.batch_count * a.L, static_cast<double>(a.E * parts), [&](int64_t row) {
    T* to = dquery + row * a.E;
    for (int64_t e = 0; e < a.E; e += Vec<T>::lanes) {
      Vec<T> sum = load(to + e);
      for (int64_t p = 1; p < parts; ++p) {
        sum = sum + load(partial + (p - 1) * size + row * a.E + e);
      }
      store(to + e, sum * broadcast(a.scale));
    }
  });
}

// dmask: ds, summed in double over what the mask was broadcast along.
template <typename T>
void backward_mask(T* dmask, const Attention<T>& a, const AttentionGradient<T>& g,
                   const AttentionGroups& groups) {
  using Gradients = GradientTiles<T, true>;
  const bool has_rows = a.mask_row_stride != 0, has_cols = a.mask_col_stride != 0;
  const int64_t mask_rows = has_rows ? a.L : 1, mask_cols = has_cols ? a.S : 1;
  // A task owns kStream x kOwned elements of the mask.
  const int64_t row_tasks = has_rows ? ceil_div(a.L, kStream) : 1;
  const int64_t col_tasks = has_cols ? ceil_div(a.S, kOwned) : 1;
  parallel_tasks(groups.count * row_tasks * col_tasks, pair_cost(a), [&](int64_t task) {
    const Workspace<T> scratch(Gradients::scratch(a));
    const Workspace<double> sums(kStream * kOwned);
    fill(sums.data(), 0.0, kStream * kOwned);
    const int64_t col_task = task % col_tasks, row_task = task / col_tasks % row_tasks;
    const int64_t group = task / col_tasks / row_tasks;
    const Span queries = has_rows ? block_of(row_task, kStream, a.L) : Span{0, a.L};
    const Span keys = has_cols ? block_of(col_task, kOwned, a.S) : Span{0, a.S};
    for (int64_t i = groups.starts[group]; i < groups.starts[group + 1]; ++i) {
      for (int64_t key = keys.first; key < keys.end(); key += kOwned) {
        const Span owned = {key, smaller(kOwned, keys.end() - key)};
        Gradients tiles(a, g, groups.members[i], owned, scratch.data());
        for (int64_t query = queries.first; query < queries.end(); query += kStream) {
          const Span rows = {query, smaller(kStream, queries.end() - query)};
          tiles.compute(rows);
          for (int64_t r = 0; r < rows.count; ++r) {
            double* line = sums.data() + (has_rows ? r * kOwned : 0);
            const T* ds = tiles.ds + r * kOwned;
            for (int64_t c = 0; c < owned.count; ++c) {
              line[has_cols ? c : 0] += static_cast<double>(ds[c]);
            }
          }
        }
      }
    }
    T* to = dmask + (group * mask_rows + queries.first) * mask_cols + keys.first;
    for (int64_t r = 0; r < (has_rows ? queries.count : 1); ++r) {
      for (int64_t c = 0; c < (has_cols ? keys.count : 1); ++c) {
        to[r * mask_cols + c] = static_cast<T>(sums.data()[r * kOwned + c]);
      }
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AttentionKernels, attention_kernels, forward<T>, row_dots<T>,
                      backward_query<T>, backward_key_value<T>, backward_all<T>, backward_mask<T>)

}  // namespace fastdl::FASTDL_ISA
