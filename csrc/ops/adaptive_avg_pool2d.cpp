#include "ops/adaptive_avg_pool2d.h"

#include "core/trace.h"
#include "kernels/adaptive_avg_pool2d.h"
#include "kernels/avg_pool2d.h"

namespace fastdl::ops {
namespace {

template <typename T>
void trace_pool(const AdaptiveShape& s) {
  const double inputs = static_cast<double>(s.planes) * static_cast<double>(s.windows.plane());
  const double bytes = (inputs + static_cast<double>(s.output.numel())) * sizeof(T);
  if (!tiles(s.windows)) {
    trace("adaptive windows, lanes along a window's width", inputs, bytes,
          "the output's size does not divide that of x");
  } else if (suits_rows(tiling(s.windows))) {
    trace("rows, lanes along the output's width", inputs, bytes);
  } else {
    trace("windows, lanes along a window's width", inputs, bytes);
  }
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
    trace_pool<T>(s);
    if (s.output.numel() == 0) return;
    if (!tiles(s.windows)) {
      adaptive_avg_pool2d_kernels<T>().forward(out, x.ptr<T>(), s.planes, s.windows);
      return;
    }
    const PoolWindows windows = tiling(s.windows);
    const auto& kernels = avg_pool2d_kernels<T>();
    (suits_rows(windows) ? kernels.forward_rows : kernels.forward_windows)(
        out, x.ptr<T>(), s.planes, windows, kCount);
  });
}

void adaptive_avg_pool2d_backward(Output& dx, const Tensor& dy, const Shape& input_size) {
  const char* op = "adaptive_avg_pool2d_backward";
  check_planes(op, "input_size", input_size);
  check_planes(op, "dy", dy.shape);
  check_not_empty(op, "input_size", input_size, 1);
  check_not_empty(op, "dy", dy.shape, 1);
  const AdaptiveShape s =
      adaptive_shape(op, input_size, {dy.shape[dy.ndim() - 2], dy.shape[dy.ndim() - 1]});
  check(dy.shape == s.output, op, "dy of shape ", dy.shape, " cannot be pooled from input_size ",
        input_size);
  dispatch_float(dy.dtype, [&]<typename T>() {
    T* out = dx.make(op, input_size, dy.dtype).ptr<T>();
    trace_pool<T>(s);
    if (s.planes == 0) return;
    if (!tiles(s.windows)) {
      adaptive_avg_pool2d_kernels<T>().backward(out, dy.ptr<T>(), s.planes, s.windows);
      return;
    }
    const PoolWindows windows = tiling(s.windows);
    const auto& kernels = avg_pool2d_kernels<T>();
    (suits_rows(windows) ? kernels.backward_rows : kernels.backward_windows)(
        out, dy.ptr<T>(), s.planes, windows, kCount);
  });
}

}  // namespace fastdl::ops
