#include "ops/adaptive_max_pool2d.h"

#include "core/trace.h"
#include "kernels/adaptive_max_pool2d.h"

namespace fastdl::ops {

void adaptive_max_pool2d_forward(const MaxPoolOutputs& to, const Tensor& x,
                                 const AdaptiveSize& output_size) {
  const char* op = "adaptive_max_pool2d";
  check_planes(op, "x", x.shape);
  check_not_empty(op, "x", x.shape, 1);
  const AdaptiveShape s = adaptive_shape(op, x.shape, output_size);
  dispatch_float(x.dtype, [&]<typename T>() {
    const bool empty = s.output.numel() == 0;
    if (const auto windows = empty ? std::nullopt : regular(s.windows)) {
      return maxima<T>(op, to, x, {s.planes, *windows, s.output});
    }
    T* y = to.y.make(op, s.output, x.dtype).ptr<T>();
    int64_t* indices =
        to.indices ? to.indices->make(op, s.output, DType::int64).ptr<int64_t>() : nullptr;
    const double inputs = static_cast<double>(x.numel());
    trace("adaptive windows, lanes along the width", inputs,
          inputs * sizeof(T) +
              static_cast<double>(s.output.numel()) * (sizeof(T) + (indices ? 8 : 0)),
          "windows of several sizes or distances");
    if (empty) return;
    adaptive_max_pool2d_kernels<T>().forward(y, indices, x.ptr<T>(), s.planes, s.windows);
  });
}

void adaptive_max_pool2d_backward_codes(Output& dx, const Tensor& dy, const Tensor& codes,
                                        const Shape& input_size) {
  const char* op = "adaptive_max_pool2d_backward";
  const AdaptiveShape s = adaptive_shape_backward(op, input_size, dy.shape);
  const auto windows = s.output.numel() == 0 ? std::nullopt : regular(s.windows);
  check(windows.has_value(), op, "there are no codes for these windows");
  gather_from_maxima(op, dx, dy, codes, input_size, {s.planes, *windows, s.output});
}

void adaptive_max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                                  const Shape& input_size) {
  scatter_to_maxima("adaptive_max_pool2d_backward", dx, dy, indices, input_size, 0, 1);
}

}  // namespace fastdl::ops
