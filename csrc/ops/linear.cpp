#include "ops/linear.h"

#include "core/buffer_pool.h"
#include "core/device.h"
#include "core/trace.h"
#include "cuda/channel_sums.h"
#include "kernels/linear.h"
#include "ops/convert.h"
#include "ops/matmul.h"

namespace fastdl::ops {
namespace {

// x is rows of `in`, y rows of `out`; a 1-D weight is one row, and y then has no last dimension.
struct Sizes {
  int64_t rows, in, out;
  Shape y;
};

Sizes sizes_of(const char* op, const Tensor& x, const Tensor& weight) {
  check_same_dtype(op, "x", x, "weight", weight);
  check(x.ndim() > 0, op, "x must have at least 1 dimension, got a 0-d array");
  check(weight.ndim() == 1 || weight.ndim() == 2, op,
        "weight must have shape (out, in) or (in,), got ", weight.shape);
  Sizes s;
  s.rows = x.shape.numel(0, x.ndim() - 1);
  s.in = weight.shape[weight.ndim() - 1];
  s.out = weight.ndim() == 2 ? weight.shape[0] : 1;
  check(x.shape[x.ndim() - 1] == s.in, op, "x has ", x.shape[x.ndim() - 1],
        " input features, weight has ", s.in, ": shapes ", x.shape, " and ", weight.shape);
  s.y = Shape(x.shape.begin(), x.shape.end() - 1);
  if (weight.ndim() == 2) s.y.push_back(s.out);
  return s;
}

void check_bias(const Tensor& bias, const Tensor& weight) {
  check_same_dtype("linear", "bias", bias, "weight", weight);
  if (bias.ndim() == 0 || (weight.ndim() == 2 && bias.shape == Shape{1})) return;
  check_shape("linear", "bias", bias, Shape(weight.shape.begin(), weight.shape.end() - 1));
}

void trace_products(const Sizes& s, double products, DType dtype) {
  const auto rows = static_cast<double>(s.rows);
  const auto in = static_cast<double>(s.in), out = static_cast<double>(s.out);
  trace("nothing to do", 2 * products * rows * in * out,
        (products * (rows * in + in * out) + rows * out) * static_cast<double>(dtype_size(dtype)));
}

void sum_of_rows(const Tensor& out, const Tensor& dy, const Sizes& s) {
  if (s.out == 0) return;
  if (on_device([&](const Device& device) {
        cuda::ChannelSums{device}.sum(out, dy, s.rows, s.out, 1);
      })) {
    return;
  }
  if (is_half(dy.dtype)) {
    const Workspace<float> wide(dy.numel()), sums(s.out);
    widen(wide.data(), dy);
    linear_kernels<float>().bias_backward(sums.data(), wide.data(), s.rows, s.out);
    return narrow(out, sums.data());
  }
  dispatch_float(dy.dtype, [&]<typename T>() {
    linear_kernels<T>().bias_backward(out.ptr<T>(), dy.ptr<T>(), s.rows, s.out);
  });
}

}  // namespace

void linear_forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* packed,
                    const Tensor* bias, const EpilogueOptions& epilogue) {
  const Sizes s = sizes_of("linear", x, weight);
  if (packed) check_same_dtype("linear", "packed", *packed, "x", x);
  if (bias) check_bias(*bias, weight);
  check_residual("linear", epilogue, s.y, x);
  const Tensor& out = y.make("linear", s.y, x.dtype);
  trace_products(s, 1, x.dtype);
  if (epilogue.residual) {
    last_trace.bytes += static_cast<double>(s.y.numel()) * static_cast<double>(dtype_size(x.dtype));
  }
  GemmPlan plan = {s.rows, s.out, s.in, s.in, 1, 1, s.in};
  plan.bias_col_stride = bias && bias->numel() == s.out;
  run_gemm(out, x, weight, bias, plan, epilogue, packed);
}

void pack_linear_weight(Output& packed, const Tensor& weight) {
  check(weight.ndim() == 2, "pack_linear_weight", "weight must have shape (out, in), got ",
        weight.shape);
  const int64_t out = weight.shape[0], in = weight.shape[1];
  pack_factor(packed, "pack_linear_weight", weight, {0, out, in, in, 1, 1, in});
}

void linear_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy, const Tensor& x,
                     const Tensor& weight) {
  const char* op = "linear_backward";
  const Sizes s = sizes_of(op, x, weight);
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, s.y);
  trace_products(s, (dx != nullptr) + (dweight != nullptr), x.dtype);
  if (dx) {
    GemmPlan plan = {s.rows, s.in, s.out, s.out, 1, s.in, 1};
    run_gemm(dx->make(op, x.shape, x.dtype), dy, weight, nullptr, plan);
  }
  if (dweight) {
    GemmPlan plan = {s.out, s.in, s.rows, 1, s.out, s.in, 1};
    run_gemm(dweight->make(op, weight.shape, x.dtype), dy, x, nullptr, plan);
  }
  if (dbias) {
    const Tensor& out =
        dbias->make(op, Shape(weight.shape.begin(), weight.shape.end() - 1), x.dtype);
    sum_of_rows(out, dy, s);
  }
}

}  // namespace fastdl::ops
