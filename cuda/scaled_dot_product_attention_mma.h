#pragma once

#include "cuda/attention.h"

namespace fastdl::cuda {

// Whether the kernels on matrix units take the call: 16-bit arrays with rows of whole 16 bytes, up
// to 128 elements long.
bool fits_mma(const Attention& attention, std::initializer_list<const Tensor*> others);

// T is bfloat16 or float16. A gradient may be null; dkey and dvalue are made together where the
// same products share their matrices.
template <typename T>
struct AttentionMma {
  const Device& device;
  const Attention& attention;

  void forward(T* y, float* logsumexp) const;
  void backward_query(T* dquery, const AttentionGradient<T>& gradient) const;
  void backward_key_value(T* dkey, T* dvalue, const AttentionGradient<T>& gradient) const;
};

}  // namespace fastdl::cuda
