// The 16-bit numbers that products of matrices take as they lie.
#pragma once

#include "bindings/call.h"
#include "ops/matmul.h"

namespace fastdl::bindings {

inline Native native_products() {
  return {.bfloat16 = ops::multiplies_bfloat16(),
          .float16 = ops::multiplies_float16(),
          .products = "matmul"};
}

}  // namespace fastdl::bindings
