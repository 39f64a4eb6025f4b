#include "ops/avg_pool2d.h"

#include "core/trace.h"
#include "kernels/avg_pool2d.h"

namespace fastdl::ops {
namespace {

AvgPoolDivisor divisor(const char* op, const AvgPoolOptions& options) {
  check(options.divisor_override != 0, op, "divisor_override must not be 0");
  return {options.count_include_pad, options.divisor_override.value_or(0)};
}

template <typename T>
void trace_pool(bool rows, const PoolShape& s) {
  const double inputs = static_cast<double>(s.planes) * static_cast<double>(s.windows.plane());
  const double outputs = static_cast<double>(s.output.numel());
  const double taps = static_cast<double>(s.windows.rows.kernel * s.windows.columns.kernel);
  trace(rows ? "rows, lanes along the output's width" : "windows, lanes along a window's width",
        outputs * taps, (inputs + outputs) * sizeof(T), rows ? "" : "few or unusual windows");
}

}  // namespace

void avg_pool2d_forward(Output& y, const Tensor& x, const AvgPoolOptions& options) {
  const char* op = "avg_pool2d";
  const PoolShape s = pool_shape(op, "x", x.shape, options);
  const AvgPoolDivisor by = divisor(op, options);
  const bool rows = suits_rows(s.windows);
  dispatch_float(x.dtype, [&]<typename T>() {
    T* out = y.make(op, s.output, x.dtype).ptr<T>();
    trace_pool<T>(rows, s);
    if (s.planes == 0) return;
    const auto& kernels = avg_pool2d_kernels<T>();
    (rows ? kernels.forward_rows : kernels.forward_windows)(out, x.ptr<T>(), s.planes, s.windows,
                                                            by);
  });
}

void avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size,
                         const AvgPoolOptions& options) {
  const char* op = "avg_pool2d_backward";
  const PoolShape s = pool_shape(op, "input_size", input_size, options);
  const AvgPoolDivisor by = divisor(op, options);
  check_shape(op, "dy", dy, s.output);
  const bool rows = suits_rows(s.windows);
  dispatch_float(dy.dtype, [&]<typename T>() {
    T* out = dx.make(op, input_size, dy.dtype).ptr<T>();
    trace_pool<T>(rows, s);
    if (s.planes == 0) return;
    const auto& kernels = avg_pool2d_kernels<T>();
    (rows ? kernels.backward_rows : kernels.backward_windows)(out, dy.ptr<T>(), s.planes, s.windows,
                                                              by);
  });
}

}  // namespace fastdl::ops
