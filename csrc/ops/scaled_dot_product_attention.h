#pragma once

#include <array>
#include <optional>

#include "core/output.h"
#include "core/random.h"

namespace fastdl::ops {

struct AttentionInputs {
  const Tensor &query, &key, &value;
  const Tensor* attn_mask;  // bool, or of query's dtype
};

struct AttentionOptions {
  double dropout_p;
  bool is_causal;
  std::optional<double> scale;
  bool enable_gqa;
};

// Returns the state of the random numbers of the dropout, for backward: the one given, or the
// process's own.
RngState scaled_dot_product_attention_forward(Output& y, Output& logsumexp,
                                              const AttentionInputs& inputs,
                                              const AttentionOptions& options,
                                              std::optional<RngState> given);

// dquery, dkey, dvalue and dattn_mask, where output_mask asks for them.
void scaled_dot_product_attention_backward(std::array<Output*, 4> gradients, const Tensor& dy,
                                           const AttentionInputs& inputs, const Tensor& y,
                                           const Tensor& logsumexp, const AttentionOptions& options,
                                           RngState rng_state, std::array<bool, 4> output_mask);

}  // namespace fastdl::ops
