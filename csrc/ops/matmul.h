#pragma once

#include "core/gemm_plan.h"
#include "core/output.h"
#include "ops/epilogue.h"

namespace fastdl::ops {

// bias is null, or goes with every row of a product with one matrix `other`.
void matmul_forward(Output& y, const Tensor& x, const Tensor& other, const Tensor* bias);
// The outputs may be null: those gradients are not computed.
void matmul_backward(Output* dx, Output* dother, const Tensor& dy, const Tensor& x,
                     const Tensor& other);

// Whether products of such numbers need not be widened: the ops then take their arrays as they lie.
bool multiplies_bfloat16();
bool multiplies_float16();

// What every product goes through: C of the plan into out, by the kernel that suits its sizes.
// packed: what pack_factor made of b, or null.
void run_gemm(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor* bias,
              GemmPlan& plan, const EpilogueOptions& epilogue = {}, const Tensor* packed = nullptr);
// b of a plan as the instruction set in use wants it; the plan's m does not matter.
void pack_factor(Output& packed, const char* op, const Tensor& b, const GemmPlan& plan);

}  // namespace fastdl::ops
