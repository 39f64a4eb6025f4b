// What a product or a convolution does to its result while that is still in a cache:
// y = activation(y + residual). The ops fill it in; kernels run it by core/apply_epilogue.h.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

enum class Activation { none, relu, gelu, gelu_tanh };

template <typename T>
struct Epilogue {
  Activation activation = Activation::none;
  const T* residual = nullptr;  // laid out like y; may be null

  FASTDL_INLINE bool empty() const { return activation == Activation::none && !residual; }
  // For the part of y that begins `offset` elements on.
  FASTDL_INLINE Epilogue at(int64_t offset) const {
    return {activation, residual ? residual + offset : nullptr};
  }
};

}  // namespace fastdl
