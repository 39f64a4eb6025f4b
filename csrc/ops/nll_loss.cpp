#include "ops/nll_loss.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/nll_loss.h"
#include "kernels/nll_loss.h"
#include "ops/class_loss.h"

namespace fastdl::ops {

void nll_loss_forward(Output& loss, const Tensor& x, const Tensor& target, const Tensor* weight,
                      int64_t ignore_index, const std::string& reduction_name) {
  const char* op = "nll_loss";
  const Reduction reduction = parse_reduction(op, reduction_name);
  const ClassSizes sizes = class_sizes(op, x);
  check_class_weight(op, weight, x, sizes);
  check_target(op, target, x, sizes, ignore_index);
  const double n = static_cast<double>(target.numel());
  trace("gather", 2 * n, n * (sizeof(int64_t) + dtype_size(x.dtype)));
  const Tensor& out = make_loss(op, loss, x, reduction);
  if (on_device([&](const Device& device) {
        cuda::NllLoss{device}.forward(out, x, target, weight, sizes, ignore_index, reduction);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    reduce_loss<T>(
        out, x, reduction,
        [&](T* losses) {
          nll_loss_kernels<T>().forward(losses, x.ptr<T>(), target.ptr<int64_t>(),
                                        ptr_or_null<T>(weight), sizes, ignore_index);
        },
        [&] { return target_weight<T>(target, weight, ignore_index); });
  });
}

void nll_loss_backward(Output& dx, const Tensor& dy, const Tensor& x, const Tensor& target,
                       const Tensor* weight, int64_t ignore_index,
                       const std::string& reduction_name) {
  const char* op = "nll_loss_backward";
  const Reduction reduction = parse_reduction(op, reduction_name);
  const ClassSizes sizes = class_sizes(op, x);
  check_class_weight(op, weight, x, sizes);
  check_loss_gradient(op, dy, x, reduction);
  check_target(op, target, x, sizes, ignore_index);
  const double n = static_cast<double>(target.numel()), size = static_cast<double>(x.numel());
  trace("scatter", n, n * sizeof(int64_t) + size * dtype_size(x.dtype));
  const Tensor& out = dx.make(op, x.shape, x.dtype);
  if (on_device([&](const Device& device) {
        cuda::NllLoss{device}.backward(out, dy, target, weight, sizes, ignore_index, reduction);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    const LossGradient<T> dloss(dy, reduction,
                                [&] { return target_weight<T>(target, weight, ignore_index); });
    nll_loss_kernels<T>().backward(out.ptr<T>(), dloss.data(), dloss.step(), target.ptr<int64_t>(),
                                   ptr_or_null<T>(weight), sizes, ignore_index);
  });
}

}  // namespace fastdl::ops
