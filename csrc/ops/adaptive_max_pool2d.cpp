#include "ops/adaptive_max_pool2d.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/max_pool2d.h"
#include "kernels/adaptive_max_pool2d.h"
#include "ops/pool_channels_last.h"

namespace fastdl::ops {

constexpr int64_t kExact = int64_t{1} << 24;  // float32 holds every whole number below

void adaptive_max_pool2d_forward(const MaxPoolOutputs& to, const Tensor& x,
                                 const AdaptiveSize& output_size) {
  const char* op = "adaptive_max_pool2d";
  check_planes(op, "x", x.shape);
  check_not_empty(op, "x", x.shape, 1);
  const AdaptiveShape s = adaptive_shape(op, x.shape, output_size);
  if (x.channels_last) {
    if (maxima_channels_last(op, to, x, {x.shape, s.windows}, s.output)) return;
    return maxima_channels_first(to, x, [&](const MaxPoolOutputs& first, const Tensor& x_) {
      adaptive_max_pool2d_forward(first, x_, output_size);
    });
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    const auto windows = few_taps(s.windows);
    if (windows && (to.codes || !to.indices)) {
      return maxima<T>(op, to, x, {s.planes, *windows, s.output});
    }
    const Tensor& y = to.y.make(op, s.output, x.dtype);
    const Tensor* indices = to.indices ? &to.indices->make(op, s.output, DType::int64) : nullptr;
    const auto& kernels = adaptive_max_pool2d_kernels<T>();
    const auto inputs = static_cast<double>(x.numel());
    const auto size = static_cast<double>(dtype_size(x.dtype));
    const auto run = [&](const char* kernel, const char* reason, auto* forward) {
      trace(kernel, inputs,
            inputs * size + static_cast<double>(s.output.numel()) * (size + (indices ? 8 : 0)),
            reason);
      if (s.output.numel() == 0) return;
      if (on_device([&](const Device& device) {
            cuda::MaxPool2d{device}.forward(y, indices, nullptr, x, s.windows);
          })) {
        return;
      }
      forward(y.ptr<T>(), ptr_or_null<int64_t>(indices), x.ptr<T>(), s.planes, s.windows);
    };
    if (s.windows.plane() >= kExact) {
      run("windows one by one", "positions that float32 does not hold", kernels.forward_huge);
    } else if (is_narrow(s.windows)) {
      run("adaptive windows, a row of them a lane", "", kernels.forward_rows);
    } else {
      run("windows, lanes along a window's width", "wide windows, or of whole rows",
          kernels.forward_windows);
    }
  });
}

void adaptive_max_pool2d_backward_codes(Output& dx, const Tensor& dy, const Tensor& codes,
                                        const Shape& input_size) {
  const char* op = "adaptive_max_pool2d_backward";
  const AdaptiveShape s = adaptive_shape_backward(op, input_size, dy.shape);
  if (dy.channels_last) {
    check(dy.shape == s.output, op, "dy of shape ", dy.shape, " cannot be pooled from input_size ",
          input_size);
    return gather_channels_last(op, dx, dy, codes, input_size, {input_size, s.windows});
  }
  const auto windows = few_taps(s.windows);
  check(windows.has_value(), op, "there are no codes for these windows");
  gather_from_maxima(op, dx, dy, codes, input_size, {s.planes, *windows, s.output});
}

void adaptive_max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                                  const Shape& input_size) {
  scatter_to_maxima("adaptive_max_pool2d_backward", dx, dy, indices, input_size, 0, 1);
}

}  // namespace fastdl::ops
