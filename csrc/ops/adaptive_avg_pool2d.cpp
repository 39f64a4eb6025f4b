#include "ops/adaptive_avg_pool2d.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/avg_pool2d.h"
#include "kernels/adaptive_avg_pool2d.h"
#include "ops/avg_pool2d.h"
#include "ops/pool_channels_last.h"

namespace fastdl::ops {
namespace {

void note(const AdaptiveShape& s, DType dtype, const char* kernel, const char* reason) {
  const double inputs = static_cast<double>(s.planes) * static_cast<double>(s.windows.plane());
  const double elements = inputs + static_cast<double>(s.output.numel());
  trace(kernel, inputs, elements * static_cast<double>(dtype_size(dtype)), reason);
}

constexpr const char* kRows = "adaptive windows, a row of them a lane";

// The windows of an ordinary pool that serves them better: few taps, or whole planes.
std::optional<PoolWindows> ordinary(const AdaptiveWindows& w) {
  return w.output() == 1 ? regular(w) : few_taps(w);
}

constexpr AvgPoolDivisor kCount{true, 0};

template <typename T>
WindowDivisors<T> window_divisors(const AdaptiveWindows& w) {
  const auto of_axis = [](const AdaptiveAxis& axis) {
    std::vector<T> divisors(axis.output);
    for (int64_t o = 0; o < axis.output; ++o) {
      divisors[o] = static_cast<T>(axis.end(o) - axis.begin(o));
    }
    return divisors;
  };
  return {of_axis(w.rows), of_axis(w.columns), kCount};
}

}  // namespace

void adaptive_avg_pool2d_forward(Output& y, const Tensor& x, const AdaptiveSize& output_size) {
  const char* op = "adaptive_avg_pool2d";
  check_planes(op, "x", x.shape);
  check_not_empty(op, "x", x.shape, x.ndim() - 2);
  const AdaptiveShape s = adaptive_shape(op, x.shape, output_size);
  dispatch_float(x.dtype, [&]<typename T>() {
    if (x.channels_last) {
      return average_channels_last(y.make(op, s.output, x.dtype, true), x, {x.shape, s.windows},
                                   window_divisors<T>(s.windows), false);
    }
    const Tensor& out = y.make(op, s.output, x.dtype);
    if (const auto windows = ordinary(s.windows)) {
      return average<T>(out, x, {s.planes, *windows, s.output}, kCount);
    }
    const bool narrow = is_narrow(s.windows);
    const auto& kernels = adaptive_avg_pool2d_kernels<T>();
    note(s, x.dtype, narrow ? kRows : "windows, lanes along a window's width",
         narrow ? "" : "wide windows");
    if (s.output.numel() == 0) return;
    if (on_device([&](const Device& device) {
          cuda::AvgPool2d{device}.forward(out, x, s.windows, kCount);
        })) {
      return;
    }
    (narrow ? kernels.forward_rows : kernels.forward_windows)(out.ptr<T>(), x.ptr<T>(), s.planes,
                                                              s.windows);
  });
}

void adaptive_avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size) {
  const char* op = "adaptive_avg_pool2d_backward";
  const AdaptiveShape s = adaptive_shape_backward(op, input_size, dy.shape);
  check(dy.shape == s.output, op, "dy of shape ", dy.shape, " cannot be pooled from input_size ",
        input_size);
  dispatch_float(dy.dtype, [&]<typename T>() {
    if (dy.channels_last) {
      return average_channels_last(dx.make(op, input_size, dy.dtype, true), dy,
                                   {input_size, s.windows}, window_divisors<T>(s.windows), true);
    }
    const Tensor& out = dx.make(op, input_size, dy.dtype);
    if (const auto windows = ordinary(s.windows)) {
      return spread<T>(out, dy, {s.planes, *windows, s.output}, kCount);
    }
    note(s, dy.dtype, kRows, "");
    if (s.planes == 0) return;
    if (on_device([&](const Device& device) {
          cuda::AvgPool2d{device}.backward(out, dy, s.windows, kCount);
        })) {
      return;
    }
    adaptive_avg_pool2d_kernels<T>().backward(out.ptr<T>(), dy.ptr<T>(), s.planes, s.windows);
  });
}

}  // namespace fastdl::ops
