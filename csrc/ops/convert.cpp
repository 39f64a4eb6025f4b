#include "ops/convert.h"

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
  dispatch_half(x.dtype,
                [&]<typename T>() { convert_kernels<T>().widen(y, x.ptr<T>(), x.numel()); });
}

void narrow(const Tensor& y, const float* x) {
  dispatch_half(y.dtype,
                [&]<typename T>() { convert_kernels<T>().narrow(y.ptr<T>(), x, y.numel()); });
}

}  // namespace fastdl::ops
