#include "ops/adaptive_avg_pool2d.h"

#include "core/trace.h"
#include "kernels/adaptive_avg_pool2d.h"
#include "ops/avg_pool2d.h"

namespace fastdl::ops {
namespace {

template <typename T>
void trace_irregular(const AdaptiveShape& s) {
  const double inputs = static_cast<double>(s.planes) * static_cast<double>(s.windows.plane());
  trace("adaptive windows, lanes along the width", inputs,
        (inputs + static_cast<double>(s.output.numel())) * sizeof(T),
        "windows of several sizes or distances");
}

constexpr AvgPoolDivisor kCount{true, 0};

}  // namespace

void adaptive_avg_pool2d_forward(Output& y, const Tensor& x, const AdaptiveSize& output_size) {
  const char* op = "adaptive_avg_pool2d";
  check_planes(op, "x", x.shape);
  check_not_empty(op, "x", x.shape, x.ndim() - 2);
  const AdaptiveShape s = adaptive_shape(op, x.shape, output_size);
  dispatch_float(x.dtype, [&]<typename T>() {
    T* out = y.make(op, s.output, x.dtype).ptr<T>();
    if (s.output.numel() == 0) return trace_irregular<T>(s);
    if (const auto windows = regular(s.windows)) {
      return average(out, x.ptr<T>(), {s.planes, *windows, s.output}, kCount);
    }
    trace_irregular<T>(s);
    adaptive_avg_pool2d_kernels<T>().forward(out, x.ptr<T>(), s.planes, s.windows);
  });
}

void adaptive_avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size) {
  const char* op = "adaptive_avg_pool2d_backward";
  const AdaptiveShape s = adaptive_shape_backward(op, input_size, dy.shape);
  check(dy.shape == s.output, op, "dy of shape ", dy.shape, " cannot be pooled from input_size ",
        input_size);
  dispatch_float(dy.dtype, [&]<typename T>() {
    T* out = dx.make(op, input_size, dy.dtype).ptr<T>();
    if (s.planes == 0) return trace_irregular<T>(s);
    if (const auto windows = regular(s.windows)) {
      return spread(out, dy.ptr<T>(), {s.planes, *windows, s.output}, kCount);
    }
    trace_irregular<T>(s);
    adaptive_avg_pool2d_kernels<T>().backward(out, dy.ptr<T>(), s.planes, s.windows);
  });
}

}  // namespace fastdl::ops
