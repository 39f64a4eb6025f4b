// conv2d of 16-bit numbers as they lie, of one group: windows of 1x1 are matrix products
// (run_gemm); those, and the forward of most others, go to AMX's tiles where the CPU has them.
#pragma once

#include <array>

#include "core/output.h"
#include "kernels/conv2d.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

// Whether conv2d_halves_forward takes such windows as well, of images of any size.
bool conv2d_takes_windows(DType dtype, const Shape& weight, HeightWidth stride);

// Both return the kernel's name.
const char* conv2d_halves_forward(const Tensor& y, const Tensor& x, const Tensor& weight,
                                  const Tensor* bias, const Conv2dSizes& s,
                                  const EpilogueOptions& epilogue);
// 1x1 windows, stride 1, no padding. Gradients of null are not computed.
const char* conv2d_halves_backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias,
                                   const Tensor& dy, const Tensor& x, const Tensor& weight,
                                   const Conv2dSizes& s);

}  // namespace fastdl::ops
