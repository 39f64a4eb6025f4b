#include "ops/cross_entropy.h"

#include <algorithm>
#include <limits>

#include "core/device.h"
#include "core/trace.h"
#include "cuda/cross_entropy.h"
#include "kernels/cross_entropy.h"
#include "ops/class_loss.h"

namespace fastdl::ops {
namespace {

bool holds_classes(const Tensor& target) { return target.dtype == DType::int64; }

ClassSizes check_arguments(const char* op, const Tensor& x, const Tensor& target,
                           const Tensor* weight, int64_t ignore_index, double label_smoothing) {
  const ClassSizes sizes = class_sizes(op, x);
  check_class_weight(op, weight, x, sizes);
  check(0 <= label_smoothing && label_smoothing <= 1, op,
        "label_smoothing must be between 0 and 1, got ", label_smoothing);
  if (holds_classes(target)) {
    check_target(op, target, x, sizes, ignore_index);
  } else {
    check_same_dtype(op, "target", target, "x", x);
    check_shape(op, "target with class probabilities", target, x.shape);
    check(ignore_index < 0, op, "ignore_index is only for class indices, got ", ignore_index,
          " with class probabilities");
  }
  return sizes;
}

// What "mean" divides by.
template <typename T>
double mean_count(const Tensor& target, const Tensor* weight, int64_t ignore_index,
                  const ClassSizes& sizes) {
  if (holds_classes(target)) return target_weight<T>(target, weight, ignore_index);
  if (sizes.classes == 0) return std::numeric_limits<double>::quiet_NaN();
  return static_cast<double>(sizes.outer * sizes.inner);
}

void trace_kernel(const ClassSizes& s, const Tensor& x, const Tensor& target, int arrays) {
  const double n = static_cast<double>(x.numel()), item = static_cast<double>(dtype_size(x.dtype));
  const double indices =
      holds_classes(target) ? 8.0 * static_cast<double>(target.numel()) : n * item;
  trace(s.inner == 1 ? "rows, lanes along the classes" : "columns, lanes along the samples", 4 * n,
        arrays * n * item + indices);
}

}  // namespace

void cross_entropy_forward(Output& loss, const Tensor& x, const Tensor& target,
                           const Tensor* weight, int64_t ignore_index,
                           const std::string& reduction_name, double label_smoothing) {
  const char* op = "cross_entropy";
  const Reduction reduction = parse_reduction(op, reduction_name);
  const ClassSizes sizes = check_arguments(op, x, target, weight, ignore_index, label_smoothing);
  trace_kernel(sizes, x, target, 1);
  const Tensor& out = make_loss(op, loss, x, reduction);
  if (on_device([&](const Device& device) {
        cuda::CrossEntropy{device}.forward(out, x, target, weight, sizes, ignore_index, reduction,
                                           label_smoothing);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    const auto& kernels = cross_entropy_kernels<T>();
    reduce_loss<T>(
        out, x, reduction,
        [&](T* losses) {
          if (sizes.classes == 0) {
            std::fill_n(losses, sizes.outer * sizes.inner, T(0));
          } else if (holds_classes(target)) {
            kernels.index_forward(losses, x.ptr<T>(), target.ptr<int64_t>(), ptr_or_null<T>(weight),
                                  sizes, ignore_index, label_smoothing);
          } else {
            kernels.probability_forward(losses, x.ptr<T>(), target.ptr<T>(), ptr_or_null<T>(weight),
                                        sizes, label_smoothing);
          }
        },
        [&] { return mean_count<T>(target, weight, ignore_index, sizes); });
  });
}

void cross_entropy_backward(Output* dx, Output* dtarget, const Tensor& dy, const Tensor& x,
                            const Tensor& target, const Tensor* weight, int64_t ignore_index,
                            const std::string& reduction_name, double label_smoothing) {
  const char* op = "cross_entropy_backward";
  const Reduction reduction = parse_reduction(op, reduction_name);
  const ClassSizes sizes = check_arguments(op, x, target, weight, ignore_index, label_smoothing);
  check_loss_gradient(op, dy, x, reduction);
  trace_kernel(sizes, x, target, 1 + (dx != nullptr) + (dtarget != nullptr));
  const bool classes = holds_classes(target);
  const auto make = [&](Output* output) {
    return output ? &output->make(op, x.shape, x.dtype) : nullptr;
  };
  const Tensor *out = make(dx), *target_out = classes ? nullptr : make(dtarget);
  if (x.numel() == 0 || (!out && !target_out)) return;
  if (on_device([&](const Device& device) {
        cuda::CrossEntropy{device}.backward(out, target_out, dy, x, target, weight, sizes,
                                            ignore_index, reduction, label_smoothing);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    T *dx_ = ptr_or_null<T>(out), *dtarget_ = ptr_or_null<T>(target_out);
    const LossGradient<T> dloss(dy, reduction,
                                [&] { return mean_count<T>(target, weight, ignore_index, sizes); });
    const auto& kernels = cross_entropy_kernels<T>();
    if (classes) {
      kernels.index_backward(dx_, dloss.data(), dloss.step(), x.ptr<T>(), target.ptr<int64_t>(),
                             ptr_or_null<T>(weight), sizes, ignore_index, label_smoothing);
    } else {
      kernels.probability_backward(dx_, dtarget_, dloss.data(), dloss.step(), x.ptr<T>(),
                                   target.ptr<T>(), ptr_or_null<T>(weight), sizes, label_smoothing);
    }
  });
}

}  // namespace fastdl::ops
