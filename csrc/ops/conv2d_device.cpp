#include "ops/conv2d_device.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/conv2d.h"
#include "cuda/conv2d_grouped.h"

namespace fastdl::ops {
namespace {

void trace_on_device(const Device& device, const Tensor& x, const Conv2dSizes& s, double flops,
                     int64_t elements) {
  const bool tf32 = device.tf32 && x.dtype == DType::float32;
  trace(cuda::suits_grouped(s) ? "grouped, direct sums"
        : tf32                 ? "implicit GEMM, products of TF32"
                               : "implicit GEMM, tiles in shared memory",
        flops, static_cast<double>(dtype_size(x.dtype)) * static_cast<double>(elements));
}

}  // namespace

bool conv2d_forward_on_device(Output& y, const Shape& shape, const Tensor& x, const Tensor& weight,
                              const Tensor* bias, const Conv2dSizes& s,
                              const EpilogueOptions& epilogue) {
  return on_device([&](const Device& device) {
    const Tensor& out = y.make("conv2d", shape, x.dtype, x.channels_last);
    const int64_t results = out.numel() * (epilogue.residual ? 2 : 1);
    trace_on_device(device, x, s, conv2d_flops(s), x.numel() + weight.numel() + results);
    cuda::Conv2d{device}.forward(out, x, weight, bias, s, epilogue.activation, epilogue.residual);
  });
}

bool conv2d_backward_on_device(Output& dx, Output& dweight, Output& dbias, const Tensor& dy,
                               const Tensor& x, const Tensor& weight, const Conv2dSizes& s,
                               const std::array<bool, 3>& mask) {
  return on_device([&](const Device& device) {
    const char* op = "conv2d_backward";
    const int gradients = int{mask[0]} + int{mask[1]};
    trace_on_device(device, x, s, gradients * conv2d_flops(s),
                    dy.numel() + gradients * (x.numel() + weight.numel()));
    const cuda::Conv2d kernels{device};
    if (mask[0]) {
      kernels.input_gradient(dx.make(op, x.shape, x.dtype, x.channels_last), dy, weight, s);
    }
    if (mask[1]) {
      kernels.weight_gradient(dweight.make(op, weight.shape, x.dtype, weight.channels_last), dy, x,
                              s);
    }
    if (mask[2]) kernels.bias_gradient(dbias.make(op, {s.out_channels}, x.dtype), dy, s);
  });
}

}  // namespace fastdl::ops
