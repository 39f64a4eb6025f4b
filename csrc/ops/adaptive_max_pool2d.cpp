#include "ops/adaptive_max_pool2d.h"

#include "core/trace.h"
#include "kernels/adaptive_max_pool2d.h"
#include "kernels/max_pool2d.h"
#include "ops/max_pool2d.h"

namespace fastdl::ops {

void adaptive_max_pool2d_forward(Output& y, Output* indices, const Tensor& x,
                                 const AdaptiveSize& output_size) {
  const char* op = "adaptive_max_pool2d";
  check_planes(op, "x", x.shape);
  check_not_empty(op, "x", x.shape, 1);
  const AdaptiveShape s = adaptive_shape(op, x.shape, output_size);
  dispatch_float(x.dtype, [&]<typename T>() {
    T* out = y.make(op, s.output, x.dtype).ptr<T>();
    int64_t* positions =
        indices ? indices->make(op, s.output, DType::int64).ptr<int64_t>() : nullptr;
    const double inputs = static_cast<double>(x.numel());
    const double bytes = inputs * sizeof(T) +
                         static_cast<double>(s.output.numel()) * (sizeof(T) + (indices ? 8 : 0));
    if (!tiles(s.windows)) {
      trace("adaptive windows, lanes along a window's width", inputs, bytes,
            "the output's size does not divide that of x");
      if (s.output.numel() == 0) return;
      adaptive_max_pool2d_kernels<T>().forward(out, positions, x.ptr<T>(), s.planes, s.windows);
      return;
    }
    const PoolWindows windows = tiling(s.windows);
    const bool rows = max_pool2d_by_rows(windows, indices);
    trace(rows ? "rows, lanes along the output's width" : "windows, lanes along a window's width",
          inputs, bytes);
    if (s.output.numel() == 0) return;
    const auto& kernels = max_pool2d_kernels<T>();
    (rows ? kernels.forward_rows : kernels.forward_windows)(out, positions, x.ptr<T>(), s.planes,
                                                            windows);
  });
}

void adaptive_max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                                  const Shape& input_size) {
  scatter_to_maxima("adaptive_max_pool2d_backward", dx, dy, indices, input_size, 0, 1);
}

}  // namespace fastdl::ops
