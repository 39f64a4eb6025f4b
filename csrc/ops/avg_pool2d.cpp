#include "ops/avg_pool2d.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/avg_pool2d.h"
#include "kernels/avg_pool2d.h"
#include "ops/pool_channels_last.h"

namespace fastdl::ops {
namespace {

AvgPoolDivisor divisor(const char* op, const AvgPoolOptions& options) {
  check(options.divisor_override != 0, op, "divisor_override must not be 0");
  return {options.count_include_pad, options.divisor_override.value_or(0)};
}

void trace_pool(const PoolShape& s, DType dtype) {
  const double inputs = static_cast<double>(s.planes) * static_cast<double>(s.windows.plane());
  const double outputs = static_cast<double>(s.output.numel());
  const double taps = static_cast<double>(s.windows.rows.kernel * s.windows.columns.kernel);
  const auto note = [&](const char* kernel, const char* reason) {
    trace(kernel, outputs * taps, (inputs + outputs) * static_cast<double>(dtype_size(dtype)),
          reason);
  };
  if (has_few_taps(s.windows)) return note("small windows, lanes along the output's width", "");
  if (suits_rows(s.windows)) return note("rows, lanes along the output's width", "");
  note("windows, lanes along a window's width", "few or unusual windows");
}

template <typename T>
WindowDivisors<T> window_divisors(const PoolWindows& w, AvgPoolDivisor by) {
  const auto of_axis = [&](const PoolAxis& axis, int64_t whole) {
    std::vector<T> divisors(axis.output);
    for (int64_t o = 0; o < axis.output; ++o) {
      divisors[o] = static_cast<T>(by.divisor ? whole : axis.extent(o, by.count_include_pad));
    }
    return divisors;
  };
  return {of_axis(w.rows, by.divisor), of_axis(w.columns, 1), by};
}

}  // namespace

template <typename T>
void average(const Tensor& y, const Tensor& x, const PoolShape& s, AvgPoolDivisor by) {
  trace_pool(s, x.dtype);
  if (s.planes == 0) return;
  if (on_device(
          [&](const Device& device) { cuda::AvgPool2d{device}.forward(y, x, s.windows, by); })) {
    return;
  }
  const auto& kernels = avg_pool2d_kernels<T>();
  const auto kernel = has_few_taps(s.windows) ? avg_pool2d_taps_kernels<T>().forward
                      : suits_rows(s.windows) ? kernels.forward_rows
                                              : kernels.forward_windows;
  kernel(y.ptr<T>(), x.ptr<T>(), s.planes, s.windows, by);
}

template <typename T>
void spread(const Tensor& dx, const Tensor& dy, const PoolShape& s, AvgPoolDivisor by) {
  trace_pool(s, dy.dtype);
  if (s.planes == 0) return;
  if (on_device(
          [&](const Device& device) { cuda::AvgPool2d{device}.backward(dx, dy, s.windows, by); })) {
    return;
  }
  const auto& kernels = avg_pool2d_kernels<T>();
  const auto kernel = has_few_taps(s.windows) ? avg_pool2d_taps_kernels<T>().backward
                      : suits_rows(s.windows) ? kernels.backward_rows
                                              : kernels.backward_windows;
  kernel(dx.ptr<T>(), dy.ptr<T>(), s.planes, s.windows, by);
}

template void average<float>(const Tensor&, const Tensor&, const PoolShape&, AvgPoolDivisor);
template void average<double>(const Tensor&, const Tensor&, const PoolShape&, AvgPoolDivisor);
template void spread<float>(const Tensor&, const Tensor&, const PoolShape&, AvgPoolDivisor);
template void spread<double>(const Tensor&, const Tensor&, const PoolShape&, AvgPoolDivisor);

void avg_pool2d_forward(Output& y, const Tensor& x, const AvgPoolOptions& options) {
  const char* op = "avg_pool2d";
  const PoolShape s = pool_shape(op, "x", x.shape, options);
  const AvgPoolDivisor by = divisor(op, options);
  dispatch_float(x.dtype, [&]<typename T>() {
    if (x.channels_last) {
      return average_channels_last(y.make(op, s.output, x.dtype, true), x, {x.shape, s.windows},
                                   window_divisors<T>(s.windows, by), false);
    }
    average<T>(y.make(op, s.output, x.dtype), x, s, by);
  });
}

void avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size,
                         const AvgPoolOptions& options) {
  const char* op = "avg_pool2d_backward";
  const PoolShape s = pool_shape(op, "input_size", input_size, options);
  const AvgPoolDivisor by = divisor(op, options);
  check_shape(op, "dy", dy, s.output);
  dispatch_float(dy.dtype, [&]<typename T>() {
    if (dy.channels_last) {
      return average_channels_last(dx.make(op, input_size, dy.dtype, true), dy,
                                   {input_size, s.windows}, window_divisors<T>(s.windows, by),
                                   true);
    }
    spread<T>(dx.make(op, input_size, dy.dtype), dy, s, by);
  });
}

}  // namespace fastdl::ops
