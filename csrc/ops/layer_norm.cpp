#include "ops/layer_norm.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/layer_norm.h"
#include "kernels/layer_norm.h"

namespace fastdl::ops {
namespace {

struct Rows {
  Shape leading;
  int64_t rows, size;
};

Rows split(const char* op, const Tensor& x, const Shape& normalized_shape) {
  const int trailing = normalized_shape.ndim();
  check(trailing > 0, op, "normalized_shape must name at least one dimension, got ()");
  const int leading = x.ndim() - trailing;
  check(leading >= 0 && Shape(x.shape.begin() + leading, x.shape.end()) == normalized_shape, op,
        "x must have a shape that ends in normalized_shape ", normalized_shape, ", got ", x.shape);
  return {Shape(x.shape.begin(), x.shape.begin() + leading), x.shape.numel(0, leading),
          x.shape.numel(leading, x.ndim())};
}

void check_parameter(const char* op, const char* name, const Tensor* parameter,
                     const Shape& normalized_shape) {
  if (parameter) check_shape(op, name, *parameter, normalized_shape);
}

const Tensor* make(const char* op, Output* output, const Shape& shape, DType dtype) {
  return output ? &output->make(op, shape, dtype) : nullptr;
}

constexpr const char* kKernel = "rows, lanes along the normalized dimensions";

}  // namespace

void layer_norm_forward(Output& y, Output& mean, Output& rstd, const Tensor& x,
                        const Shape& normalized_shape, const Tensor* weight, const Tensor* bias,
                        double eps) {
  const char* op = "layer_norm";
  const Rows s = split(op, x, normalized_shape);
  check_parameter_dtypes(op, x, {{"weight", weight}, {"bias", bias}});
  check_parameter(op, "weight", weight, normalized_shape);
  check_parameter(op, "bias", bias, normalized_shape);
  const Tensor& out = y.make(op, x.shape, x.dtype);
  const DType statistic = statistic_dtype(x.dtype);
  const Tensor &means = mean.make(op, s.leading, statistic),
               &rstds = rstd.make(op, s.leading, statistic);
  const double n = static_cast<double>(x.numel());
  trace(kKernel, 8 * n, 2 * n * static_cast<double>(dtype_size(x.dtype)));
  if (on_device([&](const Device& device) {
        cuda::LayerNorm{device}.forward(out, means, rstds, x, weight, bias, s.rows, s.size, eps);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    layer_norm_kernels<T>().forward(out.ptr<T>(), means.ptr<T>(), rstds.ptr<T>(), x.ptr<T>(),
                                    ptr_or_null<T>(weight), ptr_or_null<T>(bias), s.rows, s.size,
                                    eps);
  });
}

void layer_norm_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy,
                         const Tensor& x, const Shape& normalized_shape, const Tensor& mean,
                         const Tensor& rstd, const Tensor* weight) {
  const char* op = "layer_norm_backward";
  const Rows s = split(op, x, normalized_shape);
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, x.shape);
  check_parameter_dtypes(op, x, {{"weight", weight}});
  check_goes_with(op, "mean", mean, "x", x);
  check_shape(op, "mean", mean, s.leading);
  check_goes_with(op, "rstd", rstd, "x", x);
  check_shape(op, "rstd", rstd, s.leading);
  check_parameter(op, "weight", weight, normalized_shape);
  const DType parameter = weight ? weight->dtype : x.dtype;
  const Tensor *out = make(op, dx, x.shape, x.dtype),
               *dweights = make(op, dweight, normalized_shape, parameter),
               *dbiases = make(op, dbias, normalized_shape, parameter);
  const double n = static_cast<double>(x.numel());
  trace(kKernel, 14 * n, (dx ? 3 : 2) * n * static_cast<double>(dtype_size(x.dtype)));
  if (on_device([&](const Device& device) {
        cuda::LayerNorm{device}.backward(out, dweights, dbiases, dy, x, mean, rstd, weight, s.rows,
                                         s.size);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    layer_norm_kernels<T>().backward(
        ptr_or_null<T>(out), ptr_or_null<T>(dweights), ptr_or_null<T>(dbiases), dy.ptr<T>(),
        x.ptr<T>(), mean.ptr<T>(), rstd.ptr<T>(), ptr_or_null<T>(weight), s.rows, s.size);
  });
}

}  // namespace fastdl::ops
