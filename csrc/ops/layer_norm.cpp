#include "ops/layer_norm.h"

#include "core/trace.h"
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

template <typename T>
T* make(const char* op, Output* output, const Shape& shape, DType dtype) {
  return output ? output->make(op, shape, dtype).ptr<T>() : nullptr;
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
  dispatch_float(x.dtype, [&]<typename T>() {
    T* y_ = y.make(op, x.shape, x.dtype).ptr<T>();
    T* mean_ = mean.make(op, s.leading, x.dtype).ptr<T>();
    T* rstd_ = rstd.make(op, s.leading, x.dtype).ptr<T>();
    const double n = static_cast<double>(x.numel());
    trace(kKernel, 8 * n, 2 * n * sizeof(T));
    layer_norm_kernels<T>().forward(y_, mean_, rstd_, x.ptr<T>(), ptr_or_null<T>(weight),
                                    ptr_or_null<T>(bias), s.rows, s.size, eps);
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
  dispatch_float(x.dtype, [&]<typename T>() {
    T* dx_ = make<T>(op, dx, x.shape, x.dtype);
    T* dweight_ = make<T>(op, dweight, normalized_shape, x.dtype);
    T* dbias_ = make<T>(op, dbias, normalized_shape, x.dtype);
    const double n = static_cast<double>(x.numel());
    trace(kKernel, 14 * n, (dx ? 3 : 2) * n * sizeof(T));
    layer_norm_kernels<T>().backward(dx_, dweight_, dbias_, dy.ptr<T>(), x.ptr<T>(), mean.ptr<T>(),
                                     rstd.ptr<T>(), ptr_or_null<T>(weight), s.rows, s.size);
  });
}

}  // namespace fastdl::ops
