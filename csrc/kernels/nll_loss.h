#pragma once

#include "core/isa.h"
#include "kernels/class_sizes.h"

namespace fastdl {

// Targets are checked before. weight may be null. The gradient of sample s is dloss[s * step]:
// with step 0, one for all.
template <typename T>
struct NllLossKernels {
  void (*forward)(T* loss, const T* x, const int64_t* target, const T* weight, ClassSizes sizes,
                  int64_t ignore_index);
  void (*backward)(T* dx, const T* dloss, int64_t step, const int64_t* target, const T* weight,
                   ClassSizes sizes, int64_t ignore_index);
};

FASTDL_DECLARE_KERNELS(NllLossKernels, nll_loss_kernels)

}  // namespace fastdl
