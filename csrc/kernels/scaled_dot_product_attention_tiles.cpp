// The forward pass of attention on AMX's tiles.
//
// A task owns a block of queries, laid out once, and goes through the keys 128 at a time; these and
// their values are laid out once for all of its queries. 32 queries at a time take all steps: their
// scores, a step of the online softmax, whose results are split where they are made, and what the
// values add to the output, which waits in L2.
#include "core/buffer_pool.h"
#include "core/split.h"
#include "kernels/scaled_dot_product_attention_block.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kKeys = 128;  // 16 KB of scores, and 25 KB of their parts
constexpr int64_t kMaxQueries = 512, kMinQueries = 128;
constexpr int64_t kMinTasks = 8;  // keep some threads busy

// exp(x), but 0 below 2^-60: then no part of a weight is denormal. Nor is it on its way there,
// which made scores far apart take 9.1 ms instead of 2.0.
FASTDL_INLINE Vec<float> weight(Vec<float> x) {
  constexpr float kLog2E = 1.44269504f;
  const Vec<float> lowest = broadcast(-60 / kLog2E);
  const Vec<float> e = exp2_product(max(lowest, x), broadcast(kLog2E));
  return select(x < lowest, zero<float>(), e);
}

// The largest of the lanes of v[i] in lane i.
FASTDL_INLINE Vec<float> lane_maxima(Vec<float> (&v)[kTileRows]) {
#pragma GCC unroll 4
  for (int n = kTileRows / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) {
      v[i] = max(interleave_low(v[i], v[i + n]), interleave_high(v[i], v[i + n]));
    }
  }
  return v[0];
}

template <typename E>
class ForwardBlock {
 public:
  static int64_t scratch(const Attention<E>& a, int64_t queries) {
    const int64_t rows = round_up(queries, kStripLines), width = round_up(a.Ev, kStripLines);
    return (rows + kKeys) / kStripLines * strip_bytes<E>(a.E) +
           (kStripLines + width) / kStripLines * strip_bytes<E>(kKeys) +
           (2 * kStripLines * kKeys + rows * (width + kTileRows + 1) +
            2 * kStripLines * larger(a.E, kKeys)) *
               int64_t{sizeof(float)};
  }

  ForwardBlock(const Attention<E>& a, const AttentionBatch& batch, Span queries, char* memory)
      : a_(a),
        batch_(batch),
        queries_(queries),
        width_(round_up(a.Ev, kStripLines)),
        strip_(strip_bytes<E>(a.E)) {
    const int64_t rows = round_up(queries.count, kStripLines);
    query_strips_ = memory;
    key_strips_ = query_strips_ + rows / kStripLines * strip_;
    weights_ = key_strips_ + kKeys / kStripLines * strip_;
    value_strips_ = weights_ + kKeyStrip;
    scores_ = reinterpret_cast<float*>(value_strips_ + width_ / kStripLines * kKeyStrip);
    factors_ = scores_ + kStripLines * kKeys;
    output_ = factors_ + kStripLines * kKeys;
    sums_ = output_ + rows * width_;
    largest_ = sums_ + rows * kTileRows;
    unsplit_ = largest_ + rows;
  }

  // y and logsumexp (or null) of query 0.
  void run(E* y, float* logsumexp) {
    if (!attend_in_parts()) attend(a_.scale);
    for (int64_t i = 0; i < queries_.count; ++i) {
      const int64_t row = queries_.first + i;
      finish_query(y + row * a_.Ev, logsumexp ? logsumexp + row : nullptr, output_ + i * width_,
                   a_.Ev, largest_[i], reduce_add(load(sums_ + i * kTileRows)));
    }
  }

 private:
  static constexpr int kParts = fastdl::kParts<E>;
  static constexpr int64_t kKeyStrip = kKeys / kStepTerms * kStepBytes<E>;

  // Whether all results are finite, and so is what they are made of.
  bool attend_in_parts() {
    const float factor = a_.scale * kUnscale<E>;
    splits_ = kParts == 1 || __builtin_isnormal(factor);
    if (!splits_) return false;
    attend(factor);
    if (kParts == 1) return true;
    splits_ = false;
    return Unscaling(output_, width_, queries_.count, a_.Ev, 1 / kScale<E>).finish() &&
           all(broadcast(-INFINITY) < lowest_);
  }
  // The sums of the weights of all keys, and of the weighted values; scores are products * factor.
  void attend(float factor) {
    factor_ = factor;
    fill(sums_, 0.0f, round_up(queries_.count, kStripLines) * kTileRows);
    fill(largest_, -INFINITY, round_up(queries_.count, kStripLines));
    for (int64_t i = 0; i < queries_.count; i += kStripLines) {
      const Span rows = strip_of(i);
      Splitter<E, true>(query_strips_ + i / kStripLines * strip_, query(rows), lines(rows), a_.E)
          .finish();
    }
    const int64_t end = a_.is_causal ? smaller(queries_.end(), a_.S) : a_.S;
    for (int64_t first = 0; first < end; first += kKeys) {
      const Span keys = {first, smaller(kKeys, end - first)};
      split(keys);
      for (int64_t i = 0; i < queries_.count; i += kStripLines) add(i, keys);
    }
  }

  Span strip_of(int64_t i) const {
    return {queries_.first + i, smaller(kStripLines, queries_.count - i)};
  }
  static int lines(Span rows) { return static_cast<int>(rows.count); }
  Strided<E> query(Span rows) const {
    return {a_.query + (batch_.query * a_.L + rows.first) * a_.E, a_.E, 1};
  }
  Strided<E> key(Span rows) const {
    return {a_.key + (batch_.key * a_.S + rows.first) * a_.E, a_.E, 1};
  }
  // Columns c.. of some rows, as lines.
  Strided<E> value(Span rows, int64_t c) const {
    return {a_.value + (batch_.value * a_.S + rows.first) * a_.Ev + c, 1, a_.Ev};
  }

  void split(Span keys) {
    if (!splits_) return;
    for (int64_t j = 0; j < keys.count; j += kStripLines) {
      const Span rows = {keys.first + j, smaller(kStripLines, keys.count - j)};
      Splitter<E, false>(key_strips_ + j / kStripLines * strip_, key(rows), lines(rows), a_.E)
          .finish();
    }
    for (int64_t c = 0; c < a_.Ev; c += kStripLines) {
      const auto columns = static_cast<int>(smaller(kStripLines, a_.Ev - c));
      Splitter<E, false>(value_strips_ + c / kStripLines * kKeyStrip, value(keys, c), columns,
                         keys.count)
          .finish();
    }
  }

  // What some keys add to the outputs of queries i.. of the block.
  void add(int64_t i, Span keys) {
    const Span rows = strip_of(i);
    const int64_t seen = a_.is_causal ? smaller(keys.count, rows.end() - keys.first) : keys.count;
    if (seen <= 0) return;
    const int64_t padded = round_up(seen, kStepTerms);
    const auto meanwhile = [] {};
    score(i, rows, {keys.first, seen});
    const bool masked =
        a_.mask || a_.keep || seen < padded || (a_.is_causal && keys.first + seen - 1 > rows.first);
    if (masked) mask(rows, {keys.first, seen}, padded);
    if (a_.dropout) tile({keys.first, seen}).dropout(factors_, rows);
    for (int64_t r = 0; r < rows.count; r += kTileRows) {
      softmax(i + r, r, padded, masked, keys.first > 0);
    }
    const bool more = keys.first > 0;
    float* const to = output_ + i * width_;
    for (int64_t c = 0; c < a_.Ev; c += kStripLines) {
      const auto columns = static_cast<int>(smaller(kStripLines, a_.Ev - c));
      if (splits_) {
        multiply_strips<kParts>(to + c, width_, weights_,
                                value_strips_ + c / kStripLines * kKeyStrip, lines(rows), columns,
                                seen, more, meanwhile);
      } else {
        multiply_unsplit(to + c, width_, Strided<float>{scores_, kKeys, 1}, value(keys, c),
                         lines(rows), columns, seen, more, unsplit_);
      }
    }
  }

  ScoreTile<E, true, kKeys> tile(Span keys) const { return {a_, batch_, keys}; }

  void score(int64_t i, Span rows, Span keys) {
    const auto meanwhile = [] {};
    for (int64_t j = 0; j < keys.count; j += kStripLines) {
      const Span some = {keys.first + j, smaller(kStripLines, keys.count - j)};
      if (splits_) {
        multiply_strips<kParts>(scores_ + j, kKeys, query_strips_ + i / kStripLines * strip_,
                                key_strips_ + j / kStripLines * strip_, lines(rows), lines(some),
                                a_.E, false, meanwhile);
      } else {
        multiply_unsplit(scores_ + j, kKeys, query(rows), key(some), lines(rows), lines(some), a_.E,
                         false, unsplit_);
      }
    }
  }

  // Scales and masks scores, and those of keys beyond the last.
  void mask(Span rows, Span keys, int64_t padded) {
    for (int64_t r = 0; r < rows.count; ++r) {
      float* const line = scores_ + r * kKeys;
      for (int64_t j = 0; j < padded; j += kTileRows) {
        const Vec<float> v = load(line + j);
        if (j < keys.count) lowest_ = min(v, lowest_);
        store(line + j, v * broadcast(factor_));
      }
    }
    tile(keys).mask(scores_, rows);
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t j = keys.count; j < padded; ++j) scores_[r * kKeys + j] = -INFINITY;
    }
  }

  // One step of the online softmax, for 16 queries: i.. of the block, r.. of their strip.
  void softmax(int64_t i, int64_t r, int64_t keys, bool masked, bool more) {
    float* const scores = scores_ + r * kKeys;
    const Vec<float> factor = broadcast(masked ? 1.0f : factor_);
    Vec<float> most[kTileRows], lowest = lowest_;
#pragma GCC unroll 16
    for (int k = 0; k < kTileRows; ++k) {
      Vec<float> high = broadcast(-INFINITY), low = broadcast(INFINITY);
      for (int64_t j = 0; j < keys; j += kTileRows) {
        const Vec<float> v = load(scores + k * kKeys + j);
        high = max(v, high);
        low = min(v, low);
      }
      most[k] = max(high * factor, low * factor);
      lowest = min(low, lowest);
    }
    if (!masked) lowest_ = lowest;
    const Vec<float> before = load(largest_ + i), m = max(lane_maxima(most), before);
    // A query that sees no key so far has m = -inf, and exp(-inf - 0) = 0 is what it needs.
    const Vec<float> shift = select(m == broadcast(-INFINITY), zero<float>(), m);
    const Vec<float> decay = weight(before - shift);
    store(largest_ + i, m);
    float shifts[kTileRows], decays[kTileRows];
    store(shifts, shift);
    store(decays, decay);
    for (int k = 0; k < kTileRows; ++k) {
      const Vec<float> sum =
          exponentials(scores + k * kKeys, factor, shifts[k], keys,
                       r * kTileBytes / kTileRows + k * 64, factors_ + (r + k) * kKeys);
      float* const at = sums_ + (i + k) * kTileRows;
      store(at, fma(load(at), broadcast(decays[k]), sum));
    }
    if (!more || all(decay == broadcast(1.0f))) return;
    for (int k = 0; k < kTileRows; ++k) {
      float* const line = output_ + (i + k) * width_;
      for (int64_t c = 0; c < width_; c += kTileRows) {
        store(line + c, load(line + c) * broadcast(decays[k]));
      }
    }
  }

  // A query's weights of some keys, in parts; their sums.
  FASTDL_INLINE Vec<float> exponentials(float* scores, Vec<float> factor, float shift, int64_t keys,
                                        int64_t row, const float* dropped) {
    const Vec<float> minus = broadcast(-shift);
    Vec<float> sum = zero<float>();
    char* to = weights_ + row;
    for (int64_t j = 0; j < keys; j += kStepTerms, to += kStepBytes<E>) {
      Vec<float> a = weight(fma(load(scores + j), factor, minus));
      Vec<float> b = weight(fma(load(scores + j + kTilePairs), factor, minus));
      sum += a + b;
      if (a_.dropout) {
        a = a * load(dropped + j);
        b = b * load(dropped + j + kTilePairs);
      }
      if (!splits_) {
        store(scores + j, a);
        store(scores + j + kTilePairs, b);
      } else if constexpr (kParts == 1) {
        store_parts<1>(to, even_lanes(a, b), odd_lanes(a, b));  // pairs of neighbours
      } else {
        store_parts<kParts>(to, a, b);
      }
    }
    return sum;
  }

  const Attention<E>& a_;
  const AttentionBatch& batch_;
  Span queries_;
  int64_t width_, strip_;  // of the output; the size of a strip of queries or keys
  char *query_strips_, *key_strips_, *weights_, *value_strips_;
  float *scores_, *factors_, *output_, *sums_, *largest_, *unsplit_;
  bool splits_ = true;  // multiplies parts of scaled numbers
  float factor_ = 1;    // of scores
  // Of the products that make scores: -inf is one too large, others would make NaN.
  Vec<float> lowest_ = broadcast(INFINITY);
};

template <typename E>
void forward(E* y, float* logsumexp, const Attention<E>& a) {
  int64_t size = kMaxQueries;
  while (size > kMinQueries && a.batch_count * ceil_div(a.L, size) < kMinTasks) size /= 2;
  const int64_t blocks = ceil_div(a.L, size);
  const int64_t bytes = in_huge_page(ForwardBlock<E>::scratch(a, smaller(size, a.L)));
  parallel_for(a.batch_count * blocks, [&](int64_t task) {
    const Workspace<char> memory(bytes);
    const Tiles tiles;
    const int64_t b = task % a.batch_count;
    const AttentionBatch& batch = a.batches[b];
    float* lse = batch.writes_logsumexp ? logsumexp + batch.scores * a.L : nullptr;
    // The last blocks first: when causal they take longest.
    const Span queries = block_of(blocks - 1 - task / a.batch_count, size, a.L);
    ForwardBlock<E>(a, batch, queries, memory.data()).run(y + b * a.L * a.Ev, lse);
  });
}

}  // namespace

FASTDL_DEFINE_TILE_KERNELS(AttentionTilesKernels, attention_tiles_kernels, forward<T>)

}  // namespace fastdl::FASTDL_ISA
