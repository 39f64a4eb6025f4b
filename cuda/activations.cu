// relu, relu6, leaky_relu, elu, sigmoid, tanh, silu and gelu: a line each, bound by memory.
//
// As on the CPU, the derivatives of silu and gelu take sigmoid(-x) for 1 - sigmoid(x), and gelu
// with tanh is x * sigmoid(2 u), so that nothing cancels.
#include "cuda/activations.h"

#include "cuda/activation_functions.h"
#include "cuda/elementwise.h"

namespace fastdl::cuda {
namespace {

struct ReluGradient {
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    return x <= 0 ? C{0} : dy;
  }
};

struct Relu6 {
  template <typename C>
  __device__ C operator()(C x) const {
    const C y = Relu()(x);
    return y > 6 ? C{6} : y;
  }
};

struct Relu6Gradient {
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    return x <= 0 || x >= 6 ? C{0} : dy;
  }
};

struct LeakyRelu {
  double negative_slope;
  template <typename C>
  __device__ C operator()(C x) const {
    return x > 0 ? x : static_cast<C>(negative_slope) * x;
  }
};

struct LeakyReluGradient {
  double negative_slope;
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    return x > 0 ? dy : static_cast<C>(negative_slope) * dy;
  }
};

struct Elu {
  double alpha;
  template <typename C>
  __device__ C operator()(C x) const {
    return x < 0 ? static_cast<C>(alpha) * expm1(x) : x;
  }
};

struct EluGradient {
  double alpha;
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    return x <= 0 ? dy * static_cast<C>(alpha) * exp(x) : dy;
  }
};

struct Sigmoid {
  template <typename C>
  __device__ C operator()(C x) const {
    return sigmoid(x);
  }
};

struct SigmoidGradient {
  template <typename C>
  __device__ C operator()(C dy, C y) const {
    return dy * y * (1 - y);
  }
};

struct Tanh {
  template <typename C>
  __device__ C operator()(C x) const {
    return tanh(x);
  }
};

struct TanhGradient {
  template <typename C>
  __device__ C operator()(C dy, C y) const {
    return dy * (1 - y * y);
  }
};

struct Silu {
  template <typename C>
  __device__ C operator()(C x) const {
    return x * sigmoid(x);
  }
};

struct SiluGradient {
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    return dy * sigmoid(x) * (1 + x * sigmoid(-x));
  }
};

struct GeluGradient {
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    const C distribution = erfc(x * C(-0.70710678118654752440)) / 2;
    const C density = C(0.39894228040143267794) * exp(x * x / -2);
    return dy * (distribution + x * density);
  }
};

struct GeluTanhGradient {
  template <typename C>
  __device__ C operator()(C dy, C x) const {
    const C u = gelu_tanh_argument(x), s = sigmoid(2 * u);
    return dy * (s + s * x * (sigmoid(-2 * u) * 2 * gelu_tanh_slope(x)));
  }
};

template <typename F>
void forward(const Device& device, F f, const Tensor& y, const Tensor& x) {
  dispatch(x.dtype, [&]<typename T>() { map(device, y.ptr<T>(), x.numel(), f, x.ptr<const T>()); });
}

template <typename F>
void backward(const Device& device, F f, const Tensor& dx, const Tensor& dy, const Tensor& x) {
  dispatch(x.dtype, [&]<typename T>() {
    map(device, dx.ptr<T>(), x.numel(), f, dy.ptr<const T>(), x.ptr<const T>());
  });
}

}  // namespace

void Activations::relu_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Relu(), y, x);
}
void Activations::relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const {
  backward(device, ReluGradient(), dx, dy, x);
}

void Activations::relu6_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Relu6(), y, x);
}
void Activations::relu6_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const {
  backward(device, Relu6Gradient(), dx, dy, x);
}

void Activations::leaky_relu_forward(const Tensor& y, const Tensor& x,
                                     double negative_slope) const {
  forward(device, LeakyRelu{negative_slope}, y, x);
}
void Activations::leaky_relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                                      double negative_slope) const {
  backward(device, LeakyReluGradient{negative_slope}, dx, dy, x);
}

void Activations::elu_forward(const Tensor& y, const Tensor& x, double alpha) const {
  forward(device, Elu{alpha}, y, x);
}
void Activations::elu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x,
                               double alpha) const {
  backward(device, EluGradient{alpha}, dx, dy, x);
}

void Activations::sigmoid_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Sigmoid(), y, x);
}
void Activations::sigmoid_backward(const Tensor& dx, const Tensor& dy, const Tensor& y) const {
  backward(device, SigmoidGradient(), dx, dy, y);
}

void Activations::tanh_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Tanh(), y, x);
}
void Activations::tanh_backward(const Tensor& dx, const Tensor& dy, const Tensor& y) const {
  backward(device, TanhGradient(), dx, dy, y);
}

void Activations::silu_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Silu(), y, x);
}
void Activations::silu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const {
  backward(device, SiluGradient(), dx, dy, x);
}

void Activations::gelu_forward(const Tensor& y, const Tensor& x) const {
  forward(device, Gelu(), y, x);
}
void Activations::gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const {
  backward(device, GeluGradient(), dx, dy, x);
}

void Activations::gelu_tanh_forward(const Tensor& y, const Tensor& x) const {
  forward(device, GeluTanh(), y, x);
}
void Activations::gelu_tanh_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const {
  backward(device, GeluTanhGradient(), dx, dy, x);
}

}  // namespace fastdl::cuda
