#pragma once

#include <cstdint>

#include <type_traits>

#include "core/half.h"
#include "core/isa.h"
#include "core/random.h"

namespace fastdl {

constexpr int64_t kAttentionBlock = 64;  // rows of one operand that a task owns

// Which matrix of each array one product of the batch takes. They differ where leading dimensions
// broadcast or query heads share a key head.
struct AttentionBatch {
  int64_t query, key, value, scores;
  int64_t mask;           // offset of its first element
  bool writes_logsumexp;  // the first batch with these scores
};

// The batches that share a matrix, in order: members[starts[g]] .. members[starts[g + 1] - 1].
struct AttentionGroups {
  int64_t count;
  const int64_t *starts, *members;
};

// What numbers of T are added up in.
template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// query (L, E), key (S, E), value (S, Ev) and y (L, Ev) of every batch; scores and mask (L, S).
template <typename T>
struct Attention {
  const T *query, *key, *value;
  const T* mask;                             // added to the scores, or null
  const bool* keep;                          // false takes a key out, or null
  int64_t mask_row_stride, mask_col_stride;  // 0 where broadcast
  const AttentionBatch* batches;
  int64_t batch_count;
  int64_t L, S, E, Ev;
  SumOf<T> scale;
  bool is_causal;
  const Dropout* dropout;  // or null
};

// What backward reads besides. delta is the row sums of dy * y.
template <typename T>
struct AttentionGradient {
  const T *dy, *logsumexp, *delta;
};

template <typename T>
struct AttentionKernels {
  void (*forward)(T* y, T* logsumexp, const Attention<T>& attention);
  void (*row_dots)(T* delta, const T* dy, const T* y, int64_t rows, int64_t n);
  // Groups of batches with one query, one key (dvalue may be null), one value (dkey null), one
  // mask.
  void (*backward_query)(T* dquery, const Attention<T>&, const AttentionGradient<T>&,
                         const AttentionGroups&);
  void (*backward_key_value)(T* dkey, T* dvalue, const Attention<T>&, const AttentionGradient<T>&,
                             const AttentionGroups&);
  // All three in one go: groups of batches with one key and one value, no two of which have the
  // same query, and E a multiple of 16. Only dquery must not be null. The keys are cut into so many
  // parts, each with a dquery of its own: all but the first in `partial`.
  void (*backward_all)(T* dquery, T* dkey, T* dvalue, T* partial, int64_t parts,
                       const Attention<T>&, const AttentionGradient<T>&, const AttentionGroups&);
  void (*backward_mask)(T* dmask, const Attention<T>&, const AttentionGradient<T>&,
                        const AttentionGroups&);
};

// For few queries: groups of batches with one key and one value and at most kDecodeRows queries, of
// which no two are the same matrix. No dropout. Each gradient may be null.
constexpr int64_t kDecodeRows = 16;
template <typename T>
struct AttentionDecodeKernels {
  void (*forward)(T* y, T* logsumexp, const Attention<T>&, const AttentionGroups&);
  void (*backward)(T* dquery, T* dkey, T* dvalue, const Attention<T>&, const AttentionGradient<T>&,
                   const AttentionGroups&);
};

// For float, bfloat16 and float16.
template <typename E>
struct AttentionTilesKernels {
  void (*forward)(E* y, float* logsumexp, const Attention<E>& attention);
};

FASTDL_DECLARE_TILE_KERNELS(AttentionTilesKernels, attention_tiles_kernels)
FASTDL_DECLARE_KERNELS(AttentionKernels, attention_kernels)
FASTDL_DECLARE_KERNELS(AttentionDecodeKernels, attention_decode_kernels)

}  // namespace fastdl
