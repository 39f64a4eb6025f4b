#include "ops/activations.h"

#include <cmath>

#include "core/device.h"
#include "core/trace.h"
#include "cuda/activations.h"
#include "kernels/activations.h"
#include "ops/convert.h"

namespace fastdl::ops {
namespace {

void trace_elementwise(double flops, int arrays, const Tensor& x) {
  const double n = static_cast<double>(x.numel());
  trace("elementwise", flops * n, arrays * n * static_cast<double>(dtype_size(x.dtype)));
}

// call(kernels, y, x, n) with pointers of the type x is computed in, or call(launchers, y, x);
// `flops` counts the operations of the formula.
template <typename Call>
void forward(const char* op, double flops, Output& y, const Tensor& x, Call&& call) {
  dispatch_float(x.dtype, [&]<typename T>() {
    const Tensor& out = y.make(op, x.shape, x.dtype);
    trace_elementwise(flops, 2, x);
    if (on_device([&](const Device& device) { call(cuda::Activations{device}, out, x); })) return;
    map_slices<T, 1>(out, {&x}, 1, [&](T* y, const auto& x, int64_t n) {
      call(activation_kernels<T>(), y, x[0], n);
    });
  });
}

// The same with two inputs; `name` is what the op calls the second.
template <typename Call>
void backward(const char* op, double flops, Output& dx, const Tensor& dy, const char* name,
              const Tensor& x, Call&& call) {
  check_same_dtype(op, "dy", dy, name, x);
  check_shape(op, "dy", dy, x.shape);
  dispatch_float(x.dtype, [&]<typename T>() {
    const Tensor& out = dx.make(op, x.shape, x.dtype);
    trace_elementwise(flops, 3, x);
    if (on_device([&](const Device& device) { call(cuda::Activations{device}, out, dy, x); }))
      return;
    map_slices<T, 2>(out, {&dy, &x}, 1, [&](T* dx, const auto& inputs, int64_t n) {
      call(activation_kernels<T>(), dx, inputs[0], inputs[1], n);
    });
  });
}

// A factor in x's dtype. Like torch, refuses one that becomes infinite only there.
double factor(const char* op, const char* name, double value, const Tensor& x) {
  check(x.dtype == DType::float64 || std::isinf(value) || !std::isinf(static_cast<float>(value)),
        op, name, " ", value, " overflows float32");
  return value;
}

bool is_tanh(const char* op, const std::string& approximate) {
  check(approximate == "none" || approximate == "tanh", op,
        "approximate must be \"none\" or \"tanh\", got \"", approximate, '"');
  return approximate == "tanh";
}

}  // namespace

void relu_forward(Output& y, const Tensor& x) {
  forward("relu", 1, y, x,
          [](const auto& kernels, const auto&... args) { kernels.relu_forward(args...); });
}

void relu_backward(Output& dx, const Tensor& dy, const Tensor& x) {
  backward("relu_backward", 1, dx, dy, "x", x,
           [](const auto& kernels, const auto&... args) { kernels.relu_backward(args...); });
}

void relu6_forward(Output& y, const Tensor& x) {
  forward("relu6", 2, y, x,
          [](const auto& kernels, const auto&... args) { kernels.relu6_forward(args...); });
}

void relu6_backward(Output& dx, const Tensor& dy, const Tensor& x) {
  backward("relu6_backward", 2, dx, dy, "x", x,
           [](const auto& kernels, const auto&... args) { kernels.relu6_backward(args...); });
}

void leaky_relu_forward(Output& y, const Tensor& x, double negative_slope) {
  const double slope = factor("leaky_relu", "negative_slope", negative_slope, x);
  forward("leaky_relu", 2, y, x, [=](const auto& kernels, const auto&... args) {
    kernels.leaky_relu_forward(args..., slope);
  });
}

void leaky_relu_backward(Output& dx, const Tensor& dy, const Tensor& x, double negative_slope) {
  const double slope = factor("leaky_relu_backward", "negative_slope", negative_slope, x);
  backward("leaky_relu_backward", 2, dx, dy, "x", x, [=](const auto& kernels, const auto&... args) {
    kernels.leaky_relu_backward(args..., slope);
  });
}

void elu_forward(Output& y, const Tensor& x, double alpha) {
  const double scale = factor("elu", "alpha", alpha, x);
  forward("elu", 3, y, x,
          [=](const auto& kernels, const auto&... args) { kernels.elu_forward(args..., scale); });
}

void elu_backward(Output& dx, const Tensor& dy, const Tensor& x, double alpha) {
  const double scale = factor("elu_backward", "alpha", alpha, x);
  backward("elu_backward", 3, dx, dy, "x", x,
           [=](const auto& kernels, const auto&... args) { kernels.elu_backward(args..., scale); });
}

void sigmoid_forward(Output& y, const Tensor& x) {
  forward("sigmoid", 3, y, x,
          [](const auto& kernels, const auto&... args) { kernels.sigmoid_forward(args...); });
}

void sigmoid_backward(Output& dx, const Tensor& dy, const Tensor& y) {
  backward("sigmoid_backward", 3, dx, dy, "y", y,
           [](const auto& kernels, const auto&... args) { kernels.sigmoid_backward(args...); });
}

void tanh_forward(Output& y, const Tensor& x) {
  forward("tanh", 1, y, x,
          [](const auto& kernels, const auto&... args) { kernels.tanh_forward(args...); });
}

void tanh_backward(Output& dx, const Tensor& dy, const Tensor& y) {
  backward("tanh_backward", 3, dx, dy, "y", y,
           [](const auto& kernels, const auto&... args) { kernels.tanh_backward(args...); });
}

void silu_forward(Output& y, const Tensor& x) {
  forward("silu", 4, y, x,
          [](const auto& kernels, const auto&... args) { kernels.silu_forward(args...); });
}

void silu_backward(Output& dx, const Tensor& dy, const Tensor& x) {
  backward("silu_backward", 8, dx, dy, "x", x,
           [](const auto& kernels, const auto&... args) { kernels.silu_backward(args...); });
}

void gelu_forward(Output& y, const Tensor& x, std::string approximate) {
  const bool tanh = is_tanh("gelu", approximate);
  forward("gelu", tanh ? 8 : 3, y, x, [=](const auto& kernels, const auto&... args) {
    tanh ? kernels.gelu_tanh_forward(args...) : kernels.gelu_forward(args...);
  });
}

void gelu_backward(Output& dx, const Tensor& dy, const Tensor& x, std::string approximate) {
  const bool tanh = is_tanh("gelu_backward", approximate);
  backward("gelu_backward", tanh ? 15 : 8, dx, dy, "x", x,
           [=](const auto& kernels, const auto&... args) {
             tanh ? kernels.gelu_tanh_backward(args...) : kernels.gelu_backward(args...);
           });
}

}  // namespace fastdl::ops
