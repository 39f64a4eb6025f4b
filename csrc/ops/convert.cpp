#include "ops/convert.h"

#include "core/device.h"
#include "cuda/convert.h"
#include "kernels/convert.h"

namespace fastdl::ops {
namespace {

template <typename Body>
void dispatch_half(DType dtype, Body&& body) {
  dtype == DType::bfloat16 ? body.template operator()<bfloat16>()
                           : body.template operator()<float16>();
}

}  // namespace

void widen(float* y, const Tensor& x) {
  if (on_device([&](const Device& device) {
        const Tensor to{y, DType::float32, x.shape};
        cuda::Convert{device}.convert({&to}, {&x});
      })) {
    return;
  }
  dispatch_half(x.dtype,
                [&]<typename T>() { convert_kernels<T>().widen(y, x.ptr<T>(), x.numel()); });
}

void narrow(const Tensor& y, const float* x) {
  dispatch_half(y.dtype,
                [&]<typename T>() { convert_kernels<T>().narrow(y.ptr<T>(), x, y.numel()); });
}

void narrow(const TensorList& to, const TensorList& from) {
  if (on_device([&](const Device& device) { cuda::Convert{device}.convert(to, from); })) return;
  for (size_t i = 0; i < to.size(); ++i) narrow(*to[i], from[i]->ptr<float>());
}

}  // namespace fastdl::ops
