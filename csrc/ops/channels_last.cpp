#include "ops/channels_last.h"

#include "core/device.h"
#include "cuda/channels_last.h"
#include "kernels/channels_last.h"

namespace fastdl::ops {
namespace {

void transpose(const Tensor& y, const Tensor& x, int64_t rows, int64_t columns) {
  if (x.numel() == 0) return;
  if (on_device([&](const Device& device) {
        cuda::ChannelsLast{device}.transpose(y, x, x.shape[0], rows, columns);
      })) {
    return;
  }
  const auto run = [&]<typename T>() {
    channels_last_kernels<T>().transpose(y.ptr<T>(), x.ptr<T>(), x.shape[0], rows, columns);
  };
  if (x.dtype == DType::bfloat16) return run.operator()<bfloat16>();
  if (x.dtype == DType::float16) return run.operator()<float16>();
  dispatch_float(x.dtype, run);
}

}  // namespace

void to_channels_last(Output& y, const Tensor& x) {
  transpose(y.make("channels_last", x.shape, x.dtype, true), x, x.shape[1],
            x.shape[2] * x.shape[3]);
}

void to_channels_first(Output& y, const Tensor& x) {
  transpose(y.make("channels_last", x.shape, x.dtype), x, x.shape[2] * x.shape[3], x.shape[1]);
}

}  // namespace fastdl::ops
