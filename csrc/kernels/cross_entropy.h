#pragma once

#include "core/isa.h"
#include "kernels/class_sizes.h"

namespace fastdl {

// Targets are checked before, and there is at least one class. weight may be null. The gradient of
// sample s is dloss[s * step]: with step 0, one for all. dx or dtarget may be null.
template <typename T>
struct CrossEntropyKernels {
  void (*index_forward)(T* loss, const T* x, const int64_t* target, const T* weight,
                        ClassSizes sizes, int64_t ignore_index, double label_smoothing);
  void (*index_backward)(T* dx, const T* dloss, int64_t step, const T* x, const int64_t* target,
                         const T* weight, ClassSizes sizes, int64_t ignore_index,
                         double label_smoothing);
  void (*probability_forward)(T* loss, const T* x, const T* target, const T* weight,
                              ClassSizes sizes, double label_smoothing);
  void (*probability_backward)(T* dx, T* dtarget, const T* dloss, int64_t step, const T* x,
                               const T* target, const T* weight, ClassSizes sizes,
                               double label_smoothing);
};

FASTDL_DECLARE_KERNELS(CrossEntropyKernels, cross_entropy_kernels)

}  // namespace fastdl
