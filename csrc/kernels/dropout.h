#pragma once

#include <cstdint>

#include "core/isa.h"
#include "core/random.h"

namespace fastdl {

template <typename T>
struct DropoutKernels {
  // y may be x.
  void (*dropout)(T* y, const T* x, int64_t n, const Dropout& dropout);
};

FASTDL_DECLARE_KERNELS(DropoutKernels, dropout_kernels)

}  // namespace fastdl
