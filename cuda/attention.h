// What the kernels of attention share: the call as they get it, which matrices a product of the
// batch takes, the mask and the dropout of one score.
#pragma once

#include "cuda/numbers.h"
#include "cuda/philox.h"
#include "cuda/scaled_dot_product_attention.h"

namespace fastdl::cuda {

// The matrix of an operand that product `at` takes.
__device__ inline int64_t matrix_of(const AttentionOperand& operand, const AttentionBatches& batch,
                                    int64_t at) {
  int64_t index = 0, stride = 1;
  for (int d = batch.ndim - 1; d >= 0; --d) {
    const int64_t size = batch.sizes[d], own = operand.own[d];
    index += at % size / (size / own) * stride;
    stride *= own;
    at /= size;
  }
  return index;
}

// Of the products that take `matrix` of an operand, the one with number `member`.
__device__ inline int64_t product_of(const AttentionOperand& operand, const AttentionBatches& batch,
                                     int64_t matrix, int64_t member) {
  int64_t at = 0, stride = 1;
  for (int d = batch.ndim - 1; d >= 0; --d) {
    const int64_t size = batch.sizes[d], own = operand.own[d], share = size / own;
    at += (matrix % own * share + member % share) * stride;
    stride *= size;
    matrix /= own;
    member /= share;
  }
  return at;
}

enum class MaskKind { none, keep, added, added_float };

template <typename T>
struct AttentionProblem {
  using C = Compute<T>;
  const T *query, *key, *value;
  MaskKind mask_kind;
  const void* mask;
  int64_t mask_row_stride, mask_col_stride, mask_size;
  AttentionBatches batches;
  int64_t L, S, E, Ev;
  C scale;
  bool is_causal, has_dropout;
  unsigned threshold;
  C kept_scale;
  RngState rng;

  explicit AttentionProblem(const Attention& a)
      : query(a.query.ptr<T>()),
        key(a.key.ptr<T>()),
        value(a.value.ptr<T>()),
        mask_kind(!a.mask                           ? MaskKind::none
                  : a.mask->dtype == DType::boolean ? MaskKind::keep
                  : a.mask->dtype == dtype_of<T>    ? MaskKind::added
                                                    : MaskKind::added_float),
        mask(a.mask ? a.mask->data : nullptr),
        mask_row_stride(a.mask_row_stride),
        mask_col_stride(a.mask_col_stride),
        mask_size(a.mask ? a.mask->shape.numel(a.mask->ndim() - 2, a.mask->ndim()) : 0),
        batches(a.batches),
        L(a.L),
        S(a.S),
        E(a.E),
        Ev(a.Ev),
        scale(static_cast<C>(a.scale)),
        is_causal(a.is_causal),
        has_dropout(a.dropout != nullptr),
        threshold(has_dropout ? a.dropout->threshold : 0),
        kept_scale(has_dropout ? static_cast<C>(a.dropout->scale) : C(1)),
        rng(has_dropout ? a.dropout->rng : RngState{}) {}
};

// One product of the batch.
template <typename T>
struct AttentionProduct {
  using C = Compute<T>;
  const AttentionProblem<T>& a;
  int64_t at, scores, mask_begin;
  const T *query, *key, *value;

  __device__ AttentionProduct(const AttentionProblem<T>& a, int64_t at)
      : a(a),
        at(at),
        scores(matrix_of(a.batches.scores, a.batches, at)),
        mask_begin(a.mask ? matrix_of(a.batches.mask, a.batches, at) * a.mask_size : 0),
        query(a.query + matrix_of(a.batches.query, a.batches, at) * a.L * a.E),
        key(a.key + matrix_of(a.batches.key, a.batches, at) * a.S * a.E),
        value(a.value + matrix_of(a.batches.value, a.batches, at) * a.S * a.Ev) {}

  // Of the products with these scores, the first.
  __device__ bool writes_logsumexp() const {
    return at == product_of(a.batches.scores, a.batches, scores, 0);
  }
  __device__ int64_t keys_end(int64_t last_query) const {
    return a.is_causal && last_query < a.S ? last_query : a.S;
  }

  // The score s of query i and key j, with the mask; -infinity outside of the matrix.
  __device__ C masked(C s, int64_t i, int64_t j) const {
    if (i >= a.L || j >= a.S || (a.is_causal && j > i)) return -infinity(C());
    const int64_t offset = mask_begin + i * a.mask_row_stride + j * a.mask_col_stride;
    switch (a.mask_kind) {
      case MaskKind::none:
        return s;
      case MaskKind::keep:
        return s + (static_cast<const bool*>(a.mask)[offset] ? C(0) : -infinity(C()));
      case MaskKind::added:
        return s + widen(static_cast<const T*>(a.mask)[offset]);
      default:
        return s + static_cast<C>(static_cast<const float*>(a.mask)[offset]);
    }
  }

  // The factor that dropout gives the weight of query i and key j.
  __device__ C kept(int64_t i, int64_t j) const {
    if (!a.has_dropout) return 1;
    const auto element = static_cast<uint64_t>((scores * a.L + i) * a.S + j);
    const PhiloxWords random = philox(a.rng.offset + element / 4, seed_of(a.rng));
    unsigned word = random.words[0];
#pragma unroll
    for (unsigned k = 1; k < 4; ++k) word = element % 4 == k ? random.words[k] : word;
    return word >= a.threshold ? a.kept_scale : C(0);
  }
};

// What backward needs of each query of each product: made from y and dy by one kernel.
template <typename C>
struct RowStatistics {
  C logsumexp;
  C delta;  // sum of dy * y
};

template <typename T>
struct AttentionGradient {
  const T* dy;
  const RowStatistics<Compute<T>>* statistics;
};

}  // namespace fastdl::cuda
