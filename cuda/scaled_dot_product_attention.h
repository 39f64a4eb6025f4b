#pragma once

#include <array>

#include "core/device.h"
#include "core/random.h"

namespace fastdl::cuda {

// Which matrix of an operand each product of the batch takes, counted per dimension: where the
// batch has `size` products and the operand `own` matrices, size / own neighbours share one.
constexpr int kAttentionDims = 8;
struct AttentionOperand {
  int64_t count = 1;  // of its matrices
  int64_t own[kAttentionDims];
};
struct AttentionBatches {
  int64_t count = 1;  // of products
  int ndim = 0;
  int64_t sizes[kAttentionDims];
  AttentionOperand query, key, value, scores, mask;
};

// The checked call. query (L, E), key (S, E), value (S, Ev), y (L, Ev); scores and mask (L, S).
struct Attention {
  const Tensor &query, &key, &value;
  const Tensor* mask;                        // bool, or added to the scores; or null
  int64_t mask_row_stride, mask_col_stride;  // 0 where broadcast
  AttentionBatches batches;
  int64_t L, S, E, Ev;
  double scale;
  bool is_causal;
  const Dropout* dropout;  // or null
};

struct ScaledDotProductAttention {
  const Device& device;

  // y, and logsumexp in float32 or float64.
  void forward(const Tensor& y, const Tensor& logsumexp, const Attention& attention) const;
  // dquery, dkey, dvalue and dmask, null where not wanted.
  void backward(std::array<const Tensor*, 4> gradients, const Tensor& dy, const Tensor& y,
                const Tensor& logsumexp, const Attention& attention) const;
};

}  // namespace fastdl::cuda
