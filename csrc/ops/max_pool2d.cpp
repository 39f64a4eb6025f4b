#include "ops/max_pool2d.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/max_pool2d.h"
#include "kernels/max_pool2d.h"
#include "ops/pool_channels_last.h"

namespace fastdl::ops {
namespace {

// What the kernel over rows keeps of a position must be exact in float32.
bool offsets_fit(const PoolWindows& w) {
  constexpr int64_t kExact = int64_t{1} << 24;
  return w.rows.reach() < kExact / w.columns.size &&
         w.rows.reach() * w.columns.size + w.columns.reach() < kExact;
}

}  // namespace

template <typename T>
void maxima(const char* op, const MaxPoolOutputs& to, const Tensor& x, const PoolShape& s) {
  const Tensor& y = to.y.make(op, s.output, x.dtype);
  const bool few_taps = has_few_taps(s.windows) && (to.codes || !to.indices);
  const bool want_indices = to.indices && !few_taps;
  const bool rows = suits_rows(s.windows) && (!want_indices || offsets_fit(s.windows));
  const Tensor* indices = want_indices ? &to.indices->make(op, s.output, DType::int64) : nullptr;
  const Tensor* codes =
      few_taps && to.codes ? &to.codes->make(op, s.output, DType::uint8) : nullptr;
  const auto size = static_cast<double>(dtype_size(x.dtype));
  const auto outputs = static_cast<double>(s.output.numel());
  const double taps = static_cast<double>(s.windows.rows.kernel * s.windows.columns.kernel);
  trace(few_taps ? "small windows, lanes along the output's width"
        : rows   ? "rows, lanes along the output's width"
                 : "windows, lanes along a window's width",
        outputs * taps,
        static_cast<double>(x.numel()) * size +
            outputs * (size + (indices ? 8 : 0) + (codes ? 1 : 0)),
        few_taps || rows ? "" : "few or unusual windows");
  if (s.output.numel() == 0) return;
  if (on_device([&](const Device& device) {
        cuda::MaxPool2d{device}.forward(y, indices, codes, x, s.windows);
      })) {
    return;
  }
  const auto& kernels = max_pool2d_kernels<T>();
  if (few_taps) {
    max_pool2d_taps_kernels<T>().forward(y.ptr<T>(), ptr_or_null<uint8_t>(codes), x.ptr<T>(),
                                         s.planes, s.windows);
  } else {
    (rows ? kernels.forward_rows : kernels.forward_windows)(
        y.ptr<T>(), ptr_or_null<int64_t>(indices), x.ptr<T>(), s.planes, s.windows);
  }
}

template void maxima<float>(const char*, const MaxPoolOutputs&, const Tensor&, const PoolShape&);
template void maxima<double>(const char*, const MaxPoolOutputs&, const Tensor&, const PoolShape&);

void max_pool2d_forward(const MaxPoolOutputs& to, const Tensor& x, const PoolOptions& options) {
  const PoolShape s = pool_shape("max_pool2d", "x", x.shape, options);
  if (x.channels_last) {
    const bool spans = options.dilation == Pair{1, 1};
    if (spans && maxima_channels_last("max_pool2d", to, x, {x.shape, s.windows}, s.output)) return;
    return maxima_channels_first(to, x, [&](const MaxPoolOutputs& first, const Tensor& x_) {
      max_pool2d_forward(first, x_, options);
    });
  }
  dispatch_float(x.dtype, [&]<typename T>() { maxima<T>("max_pool2d", to, x, s); });
}

void gather_from_maxima(const char* op, Output& dx, const Tensor& dy, const Tensor& codes,
                        const Shape& input_size, const PoolShape& s) {
  check_shape(op, "dy", dy, s.output);
  check_shape(op, "codes", codes, s.output);
  check(has_few_taps(s.windows), op, "there are no codes for these windows");
  dispatch_float(dy.dtype, [&]<typename T>() {
    const Tensor& out = dx.make(op, input_size, dy.dtype);
    const auto size = static_cast<double>(dtype_size(dy.dtype));
    const auto outputs = static_cast<double>(dy.numel());
    trace("gather from small windows", outputs,
          static_cast<double>(input_size.numel()) * size + outputs * (size + 1));
    if (dy.numel() == 0) return;
    if (on_device([&](const Device& device) {
          cuda::MaxPool2d{device}.gather(out, dy, codes, s.windows);
        })) {
      return;
    }
    max_pool2d_taps_kernels<T>().backward(out.ptr<T>(), dy.ptr<T>(), codes.ptr<uint8_t>(), s.planes,
                                          s.windows);
  });
}

void max_pool2d_backward_codes(Output& dx, const Tensor& dy, const Tensor& codes,
                               const Shape& input_size, const PoolOptions& options) {
  const char* op = "max_pool2d_backward";
  const PoolShape s = pool_shape(op, "input_size", input_size, options);
  if (dy.channels_last) {
    check_shape(op, "dy", dy, s.output);
    return gather_channels_last(op, dx, dy, codes, input_size, {input_size, s.windows});
  }
  gather_from_maxima(op, dx, dy, codes, input_size, s);
}

void max_pool2d_backward(Output& dx, const Tensor& dy, const Tensor& indices,
                         const Shape& input_size) {
  scatter_to_maxima("max_pool2d_backward", dx, dy, indices, input_size, -1, input_size.ndim() - 3);
}

void scatter_to_maxima(const char* op, Output& dx, const Tensor& dy, const Tensor& indices,
                       const Shape& input_size, int64_t lowest, int first) {
  if (dy.channels_last) {
    const ChannelsFirst dy_(dy);
    return make_channels_last(dx, [&](Output& dx_) {
      scatter_to_maxima(op, dx_, dy_.tensor(), indices, input_size, lowest, first);
    });
  }
  check_planes(op, "input_size", input_size);
  for (const int64_t n : input_size) {
    check(n >= 0, op, "input_size must not be negative, got ", input_size);
  }
  check_not_empty(op, "input_size", input_size, first);
  check_planes(op, "dy", dy.shape);
  check_not_empty(op, "dy", dy.shape, first);
  const int64_t height = dy.shape[dy.ndim() - 2], width = dy.shape[dy.ndim() - 1];
  check(dy.shape == with_plane(input_size, height, width), op, "dy of shape ", dy.shape,
        " cannot be pooled from input_size ", input_size);
  check_shape(op, "indices", indices, dy.shape);
  dispatch_float(dy.dtype, [&]<typename T>() {
    const int64_t plane = input_size.numel(input_size.ndim() - 2, input_size.ndim());
    const Tensor& out = dx.make(op, input_size, dy.dtype);
    const auto size = static_cast<double>(dtype_size(dy.dtype));
    const auto outputs = static_cast<double>(dy.numel());
    trace("scatter, one plane after the other", outputs,
          static_cast<double>(input_size.numel()) * size + outputs * (size + 8));
    if (dy.numel() == 0) return;  // no planes
    if (on_device(
            [&](const Device& device) { cuda::MaxPool2d{device}.scatter(out, dy, indices); })) {
      return;
    }
    const int64_t* positions = indices.ptr<int64_t>();
    const int64_t bad = max_pool2d_kernels<T>().backward(
        out.ptr<T>(), dy.ptr<T>(), positions, lowest, planes_of(input_size), plane, height * width);
    check(bad < 0, op, "indices[", bad, "] of the flat array is ", bad < 0 ? 0 : positions[bad],
          ", out of range for ", plane, " elements a plane");
  });
}

}  // namespace fastdl::ops
