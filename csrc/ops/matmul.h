#pragma once

#include "core/epilogue.h"
#include "core/gemm_plan.h"
#include "core/output.h"

namespace fastdl::ops {

void matmul_forward(Output& y, const Tensor& x, const Tensor& other);
// The outputs may be null: those gradients are not computed.
void matmul_backward(Output* dx, Output* dother, const Tensor& dy, const Tensor& x,
                     const Tensor& other);

// What every product goes through: C of the plan into out, by the kernel that suits its sizes.
template <typename T>
void run_gemm(T* out, const T* a, const T* b, const T* bias, GemmPlan& plan,
              const Epilogue<T>& epilogue = {});

}  // namespace fastdl::ops
