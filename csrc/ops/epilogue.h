// The arguments activation= and residual= of the ops with a fused epilogue.
#pragma once

#include <optional>
#include <string>

#include "core/check.h"
#include "core/epilogue.h"
#include "core/tensor.h"

namespace fastdl::ops {

struct EpilogueOptions {
  Activation activation = Activation::none;
  const Tensor* residual = nullptr;

  template <typename T>
  Epilogue<T> of() const {
    return {activation, ptr_or_null<T>(residual)};
  }
};

inline EpilogueOptions epilogue_options(const char* op,
                                        const std::optional<std::string>& activation,
                                        const Tensor* residual) {
  EpilogueOptions options = {Activation::none, residual};
  if (!activation) return options;
  if (*activation == "relu") {
    options.activation = Activation::relu;
  } else if (*activation == "gelu") {
    options.activation = Activation::gelu;
  } else if (*activation == "gelu_tanh") {
    options.activation = Activation::gelu_tanh;
  } else {
    fail(op, "activation must be None, \"relu\", \"gelu\" or \"gelu_tanh\", got \"", *activation,
         '"');
  }
  return options;
}

// residual must be an array like y.
inline void check_residual(const char* op, const EpilogueOptions& options, const Shape& shape,
                           const Tensor& x) {
  if (!options.residual) return;
  check_same_dtype(op, "residual", *options.residual, "x", x);
  check_shape(op, "residual", *options.residual, shape);
}

}  // namespace fastdl::ops
