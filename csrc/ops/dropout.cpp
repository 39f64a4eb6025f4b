#include "ops/dropout.h"

#include <cstring>

#include "core/device.h"
#include "core/trace.h"
#include "cuda/dropout.h"
#include "kernels/dropout.h"

namespace fastdl::ops {
namespace {

bool keeps_all(const Dropout& dropout) { return dropout.threshold == 0 && dropout.scale == 1; }

void apply(const Tensor& y, const Tensor& x, const Dropout& dropout) {
  const int64_t n = x.numel();
  const double flops = static_cast<double>(n);
  const double bytes = 2 * flops * static_cast<double>(dtype_size(x.dtype));
  if (n == 0 || keeps_all(dropout)) {
    trace("copy", 0, bytes);
    if (n == 0 || y.data == x.data) return;
    if (!on_device([&](const Device& device) { cuda::Dropout{device}.copy(y, x); })) {
      std::memcpy(y.data, x.data, n * dtype_size(x.dtype));
    }
    return;
  }
  trace("philox4x32-10", flops, bytes);
  if (on_device([&](const Device& device) { cuda::Dropout{device}.dropout(y, x, dropout); })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    dropout_kernels<T>().dropout(y.ptr<T>(), x.ptr<T>(), n, dropout);
  });
}

}  // namespace

RngState dropout_forward(Output& y, const Tensor& x, double p, bool training) {
  Dropout dropout = make_dropout("dropout", p, {});
  if (!training) dropout = make_dropout("dropout", 0, {});
  const Tensor& out = y.make("dropout", x.shape, x.dtype);
  dropout.rng = reserve_random_words(keeps_all(dropout) ? 0 : x.numel());
  apply(out, x, dropout);
  return dropout.rng;
}

void dropout_backward(Output& dx, const Tensor& dy, double p, RngState rng_state) {
  const Dropout dropout = make_dropout("dropout_backward", p, rng_state);
  apply(dx.make("dropout_backward", dy.shape, dy.dtype), dy, dropout);
}

}  // namespace fastdl::ops
