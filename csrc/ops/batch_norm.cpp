#include "ops/batch_norm.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/batch_norm.h"
#include "kernels/batch_norm.h"

namespace fastdl::ops {
namespace {

BatchNormSizes sizes_of(const char* op, const Tensor& x) {
  check(x.ndim() >= 2, op, "x must have at least 2 dimensions (N, C, ...), got shape ", x.shape);
  const int64_t channels = x.shape[1], inner = x.shape.numel(2, x.ndim());
  if (x.channels_last) return {x.shape[0] * inner, channels, 1};
  return {x.shape[0], channels, inner};
}

void check_parameter(const char* op, const char* name, const Tensor* parameter, const Tensor& x) {
  if (parameter) check_shape(op, name, *parameter, Shape{x.shape[1]});
}

const Tensor* make(const char* op, Output* output, const Shape& shape, DType dtype,
                   bool channels_last = false) {
  return output ? &output->make(op, shape, dtype, channels_last) : nullptr;
}

const char* kernel_name(const BatchNormSizes& s) {
  return s.inner < kBatchNormPlane ? "columns, lanes along the channels"
                                   : "planes, lanes along them";
}

}  // namespace

void batch_norm_forward(Output& y, Output& mean, Output& rstd, const Tensor& x,
                        const Tensor* running_mean, const Tensor* running_var, const Tensor* weight,
                        const Tensor* bias, bool training, double momentum, double eps) {
  const char* op = "batch_norm";
  const BatchNormSizes s = sizes_of(op, x);
  check(!running_mean == !running_var, op,
        "running_mean and running_var must both be arrays or both be None");
  check(training || running_mean, op, "running_mean and running_var are needed in evaluation");
  check_parameter_dtypes(op, x,
                         {{"running_mean", running_mean},
                          {"running_var", running_var},
                          {"weight", weight},
                          {"bias", bias}});
  check_parameter(op, "running_mean", running_mean, x);
  check_parameter(op, "running_var", running_var, x);
  check_parameter(op, "weight", weight, x);
  check_parameter(op, "bias", bias, x);
  if (training) {
    check(!(eps <= 0), op, "eps must be positive in training, got ", eps);
    check(s.batch * s.inner != 1, op,
          "training needs more than 1 value per channel, got x of shape ", x.shape);
  } else {
    check(!(eps < 0), op, "eps must not be negative, got ", eps);
  }
  const Shape channels{s.channels};
  const DType statistic = statistic_dtype(x.dtype);
  const Tensor &out = y.make(op, x.shape, x.dtype, x.channels_last),
               &means = mean.make(op, channels, statistic),
               &rstds = rstd.make(op, channels, statistic);
  const double n = static_cast<double>(x.numel());
  trace(kernel_name(s), (training ? 7 : 2) * n, 2 * n * static_cast<double>(dtype_size(x.dtype)));
  if (on_device([&](const Device& device) {
        cuda::BatchNorm{device}.forward(out, means, rstds, x, running_mean, running_var, weight,
                                        bias, s, training, momentum, eps);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    const BatchNormForward<T> arguments{out.ptr<T>(),
                                        means.ptr<T>(),
                                        rstds.ptr<T>(),
                                        ptr_or_null<T>(running_mean),
                                        ptr_or_null<T>(running_var),
                                        x.ptr<T>(),
                                        ptr_or_null<T>(weight),
                                        ptr_or_null<T>(bias),
                                        s,
                                        momentum,
                                        eps};
    const auto& kernels = batch_norm_kernels<T>();
    (training ? kernels.forward_training : kernels.forward_evaluation)(arguments);
  });
}

void batch_norm_backward(Output* dx, Output* dweight, Output* dbias, const Tensor& dy,
                         const Tensor& x, const Tensor* weight, const Tensor& mean,
                         const Tensor& rstd, bool training) {
  const char* op = "batch_norm_backward";
  const BatchNormSizes s = sizes_of(op, x);
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, x.shape);
  check_parameter_dtypes(op, x, {{"weight", weight}});
  check_goes_with(op, "mean", mean, "x", x);
  check_goes_with(op, "rstd", rstd, "x", x);
  check_parameter(op, "weight", weight, x);
  check_parameter(op, "mean", &mean, x);
  check_parameter(op, "rstd", &rstd, x);
  const Shape channels{s.channels};
  const DType parameter = weight ? weight->dtype : x.dtype;
  const Tensor *out = make(op, dx, x.shape, x.dtype, x.channels_last),
               *dweights = make(op, dweight, channels, parameter),
               *dbiases = make(op, dbias, channels, parameter);
  const double n = static_cast<double>(x.numel());
  trace(kernel_name(s), 9 * n, (dx ? 3 : 2) * n * static_cast<double>(dtype_size(x.dtype)));
  if (on_device([&](const Device& device) {
        cuda::BatchNorm{device}.backward(out, dweights, dbiases, dy, x, weight, mean, rstd, s,
                                         training);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    batch_norm_kernels<T>().backward(
        {ptr_or_null<T>(out), ptr_or_null<T>(dweights), ptr_or_null<T>(dbiases), dy.ptr<T>(),
         x.ptr<T>(), ptr_or_null<T>(weight), mean.ptr<T>(), rstd.ptr<T>(), s, training});
  });
}

}  // namespace fastdl::ops
