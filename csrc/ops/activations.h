#pragma once

#include <string>

#include "core/output.h"

namespace fastdl::ops {

// y may be x itself, by an Output that wraps it.
void relu_forward(Output& y, const Tensor& x);
void relu_backward(Output& dx, const Tensor& dy, const Tensor& x);
void relu6_forward(Output& y, const Tensor& x);
void relu6_backward(Output& dx, const Tensor& dy, const Tensor& x);
void leaky_relu_forward(Output& y, const Tensor& x, double negative_slope);
void leaky_relu_backward(Output& dx, const Tensor& dy, const Tensor& x, double negative_slope);
void elu_forward(Output& y, const Tensor& x, double alpha);
void elu_backward(Output& dx, const Tensor& dy, const Tensor& x, double alpha);
void sigmoid_forward(Output& y, const Tensor& x);
void sigmoid_backward(Output& dx, const Tensor& dy, const Tensor& y);
void tanh_forward(Output& y, const Tensor& x);
void tanh_backward(Output& dx, const Tensor& dy, const Tensor& y);
void silu_forward(Output& y, const Tensor& x);
void silu_backward(Output& dx, const Tensor& dy, const Tensor& x);
void gelu_forward(Output& y, const Tensor& x, std::string approximate);
void gelu_backward(Output& dx, const Tensor& dy, const Tensor& x, std::string approximate);

}  // namespace fastdl::ops
