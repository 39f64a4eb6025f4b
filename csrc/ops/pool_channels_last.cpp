#include "ops/pool_channels_last.h"

#include "cuda/max_pool2d.h"

namespace fastdl::ops {
namespace {

Shape channels_last_shape(const Shape& s) { return {s[0], s[2], s[3], s[1]}; }

}  // namespace

bool maxima_channels_last(const char* op, const MaxPoolOutputs& to, const Tensor& x,
                          const ChannelsLastWindows& windows, const Shape& output) {
  if (to.indices && !(to.codes && windows.have_codes())) return false;
  const Tensor& y = to.y.make(op, output, x.dtype, true);
  const auto elements = static_cast<double>(x.numel()), outputs = static_cast<double>(y.numel());
  trace(kChannelsLast, elements,
        (elements + outputs) * static_cast<double>(dtype_size(x.dtype)) + (to.codes ? outputs : 0));
  const Tensor* codes =
      to.codes ? &to.codes->make(op, channels_last_shape(output), DType::uint8) : nullptr;
  if (y.numel() == 0) return true;
  if (on_device([&](const Device& device) {
        std::visit(
            [&](const auto& all) { cuda::MaxPool2d{device}.forward(y, nullptr, codes, x, all); },
            windows.all);
      })) {
    return true;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    pool_channels_last_kernels<T>().maxima(y.ptr<T>(), ptr_or_null<uint8_t>(codes), x.ptr<T>(),
                                           windows.sizes());
  });
  return true;
}

void gather_channels_last(const char* op, Output& dx, const Tensor& dy, const Tensor& codes,
                          const Shape& input_size, const ChannelsLastWindows& windows) {
  check_shape(op, "codes", codes, channels_last_shape(dy.shape));
  check(windows.have_codes(), op, "there are no codes for these windows");
  const Tensor& to = dx.make(op, input_size, dy.dtype, true);
  const auto outputs = static_cast<double>(dy.numel());
  const auto size = static_cast<double>(dtype_size(dy.dtype));
  trace(kChannelsLast, outputs, static_cast<double>(to.numel()) * size + outputs * (size + 1));
  if (to.numel() == 0) return;
  if (on_device([&](const Device& device) {
        std::visit([&](const auto& all) { cuda::MaxPool2d{device}.gather(to, dy, codes, all); },
                   windows.all);
      })) {
    return;
  }
  dispatch_float(dy.dtype, [&]<typename T>() {
    pool_channels_last_kernels<T>().gather(to.ptr<T>(), dy.ptr<T>(), codes.ptr<uint8_t>(),
                                           windows.sizes());
  });
}

}  // namespace fastdl::ops
