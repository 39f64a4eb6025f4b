// relu, relu6, leaky_relu, elu, sigmoid, tanh, silu and gelu, each a few lines on vectors.
//
// The derivatives of silu and gelu need sigmoid(-x) = 1 - sigmoid(x) too, without cancellation.
// gelu with tanh is x * sigmoid(2 u) for u = sqrt(2 / pi) (x + 0.044715 x^3), so that no 1 +
// tanh(u) cancels at negative x. elu and tanh keep their relative accuracy at 0.
#include "kernels/activations.h"

#include "core/vec_math.h"
#include "kernels/elementwise.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void relu_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return relu(x); });
}

template <typename T>
void relu_backward(T* dx, const T* dy, const T* x, int64_t n) {
  map(dx, dy, x, n, [](Vec<T> dy, Vec<T> x) { return select(x <= zero<T>(), zero<T>(), dy); });
}

template <typename T>
void relu6_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return min(broadcast(T(6)), relu(x)); });
}

template <typename T>
void relu6_backward(T* dx, const T* dy, const T* x, int64_t n) {
  map(dx, dy, x, n, [](Vec<T> dy, Vec<T> x) {
    return select((x <= zero<T>()) | (x >= broadcast(T(6))), zero<T>(), dy);
  });
}

template <typename T>
void leaky_relu_forward(T* y, const T* x, int64_t n, T negative_slope) {
  map(y, x, n, [=](Vec<T> x) { return select(x > zero<T>(), x, broadcast(negative_slope) * x); });
}

template <typename T>
void leaky_relu_backward(T* dx, const T* dy, const T* x, int64_t n, T negative_slope) {
  map(dx, dy, x, n, [=](Vec<T> dy, Vec<T> x) {
    return select(x > zero<T>(), dy, broadcast(negative_slope) * dy);
  });
}

template <typename T>
void elu_forward(T* y, const T* x, int64_t n, T alpha) {
  map(y, x, n, [=](Vec<T> x) { return select(x < zero<T>(), broadcast(alpha) * expm1(x), x); });
}

template <typename T>
void elu_backward(T* dx, const T* dy, const T* x, int64_t n, T alpha) {
  map(dx, dy, x, n, [=](Vec<T> dy, Vec<T> x) {
    return select(x <= zero<T>(), dy * broadcast(alpha) * exp(x), dy);
  });
}

template <typename T>
void sigmoid_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return sigmoid(x); });
}

template <typename T>
void sigmoid_backward(T* dx, const T* dy, const T* y, int64_t n) {
  map(dx, dy, y, n, [](Vec<T> dy, Vec<T> y) { return dy * y * (broadcast(T(1)) - y); });
}

template <typename T>
void tanh_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return tanh(x); });
}

template <typename T>
void tanh_backward(T* dx, const T* dy, const T* y, int64_t n) {
  map(dx, dy, y, n, [](Vec<T> dy, Vec<T> y) { return dy * fnma(y, y, broadcast(T(1))); });
}

template <typename T>
void silu_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return silu(x); });
}

template <typename T>
void silu_backward(T* dx, const T* dy, const T* x, int64_t n) {
  map(dx, dy, x, n, [](Vec<T> dy, Vec<T> x) {
    const auto [s, complement] = sigmoids(x);
    return dy * fma(s * x, complement, s);
  });
}

template <typename T>
void gelu_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return gelu(x); });
}

template <typename T>
void gelu_backward(T* dx, const T* dy, const T* x, int64_t n) {
  constexpr T inverse_sqrt_2pi = static_cast<T>(0.39894228040143267794);
  map(dx, dy, x, n, [](Vec<T> dy, Vec<T> x) {
    const auto [a, tail, bell] = normal_tail(x);
    const Vec<T> cdf = select(x < zero<T>(), tail, broadcast(T(1)) - tail);
    return dy * fma(x, bell * broadcast(inverse_sqrt_2pi), cdf);
  });
}

template <typename T>
void gelu_tanh_forward(T* y, const T* x, int64_t n) {
  map(y, x, n, [](Vec<T> x) { return gelu_tanh(x); });
}

template <typename T>
void gelu_tanh_backward(T* dx, const T* dy, const T* x, int64_t n) {
  using C = GeluTanh<T>;
  constexpr T slope = static_cast<T>(C::slope), cubic = static_cast<T>(C::cubic);
  map(dx, dy, x, n, [](Vec<T> dy, Vec<T> x) {
    // At |x| = 40 the sigmoids are 0 and 1, and no x^2 overflows.
    const Vec<T> c = min(broadcast(T(40)), max(broadcast(T(-40)), x));
    const Vec<T> u2 = c * fma(c * c, broadcast(cubic), broadcast(slope));
    const Vec<T> du2 = fma(c * c, broadcast(3 * cubic), broadcast(slope));
    const auto [s, complement] = sigmoids(u2);
    return dy * fma(s * x, complement * du2, s);
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(ActivationKernels, activation_kernels, relu_forward<T>, relu_backward<T>,
                      relu6_forward<T>, relu6_backward<T>, leaky_relu_forward<T>,
                      leaky_relu_backward<T>, elu_forward<T>, elu_backward<T>, sigmoid_forward<T>,
                      sigmoid_backward<T>, tanh_forward<T>, tanh_backward<T>, silu_forward<T>,
                      silu_backward<T>, gelu_forward<T>, gelu_backward<T>, gelu_tanh_forward<T>,
                      gelu_tanh_backward<T>)

}  // namespace fastdl::FASTDL_ISA
