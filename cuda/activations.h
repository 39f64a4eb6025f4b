#pragma once

#include "core/device.h"

namespace fastdl::cuda {

// The launchers by the names of the CPU's table of kernels. All tensors of a call have one dtype
// and one length; the result may be one of the inputs.
struct Activations {
  const Device& device;

  void relu_forward(const Tensor& y, const Tensor& x) const;
  void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const;
  void relu6_forward(const Tensor& y, const Tensor& x) const;
  void relu6_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const;
  void leaky_relu_forward(const Tensor& y, const Tensor& x, double negative_slope) const;
  void leaky_relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                           double negative_slope) const;
  void elu_forward(const Tensor& y, const Tensor& x, double alpha) const;
  void elu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, double alpha) const;
  void sigmoid_forward(const Tensor& y, const Tensor& x) const;
  void sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& y) const;
  void tanh_forward(const Tensor& y, const Tensor& x) const;
  void tanh_backward(const Tensor& dx, const Tensor& dy, const Tensor& y) const;
  void silu_forward(const Tensor& y, const Tensor& x) const;
  void silu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const;
  void gelu_forward(const Tensor& y, const Tensor& x) const;
  void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const;
  void gelu_tanh_forward(const Tensor& y, const Tensor& x) const;
  void gelu_tanh_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const;
};

}  // namespace fastdl::cuda
