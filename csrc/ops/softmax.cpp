#include "ops/softmax.h"

#include "core/trace.h"
#include "kernels/softmax.h"
#include "ops/convert.h"

namespace fastdl::ops {
namespace {

template <typename T>
using Forward = void (*SoftmaxKernels<T>::*)(T*, const T*, int64_t, int64_t, int64_t);
template <typename T>
using Backward = void (*SoftmaxKernels<T>::*)(T*, const T*, const T*, int64_t, int64_t, int64_t);

struct Sizes {
  int64_t outer, dim, inner;
  bool empty() const { return outer * dim * inner == 0; }
};

Sizes split(const char* op, const Tensor& x, int64_t dim) {
  const int axis = normalize_dim(op, dim, x.ndim());
  if (x.ndim() == 0) return {1, 1, 1};
  return {x.shape.numel(0, axis), x.shape[axis], x.shape.numel(axis + 1, x.ndim())};
}

const char* kernel_name(const Sizes& sizes) {
  return sizes.inner == 1 ? "rows, lanes along dim" : "columns, lanes along the inner dimensions";
}

template <typename T>
void forward(const char* op, Forward<T> kernel, Output& y, const Tensor& x, int64_t dim) {
  const Sizes s = split(op, x, dim);
  const Tensor& out = y.make(op, x.shape, x.dtype);
  const double n = static_cast<double>(x.numel());
  trace(kernel_name(s), 4 * n, 2 * n * static_cast<double>(dtype_size(x.dtype)));
  if (s.empty()) return;
  map_slices<T, 1>(out, {&x}, s.dim * s.inner, [&](T* y, const auto& x, int64_t slices) {
    (softmax_kernels<T>().*kernel)(y, x[0], slices, s.dim, s.inner);
  });
}

template <typename T>
void backward(const char* op, Backward<T> kernel, Output& dx, const Tensor& dy, const Tensor& y,
              int64_t dim) {
  const Sizes s = split(op, y, dim);
  check_shape(op, "dy", dy, y.shape);
  const Tensor& out = dx.make(op, y.shape, y.dtype);
  const double n = static_cast<double>(y.numel());
  trace(kernel_name(s), 4 * n, 3 * n * static_cast<double>(dtype_size(y.dtype)));
  if (s.empty()) return;
  map_slices<T, 2>(out, {&dy, &y}, s.dim * s.inner, [&](T* dx, const auto& x, int64_t slices) {
    (softmax_kernels<T>().*kernel)(dx, x[0], x[1], slices, s.dim, s.inner);
  });
}

}  // namespace

void softmax_forward(Output& y, const Tensor& x, int64_t dim) {
  dispatch_float(x.dtype, [&]<typename T>() {
    forward<T>("softmax", &SoftmaxKernels<T>::softmax_forward, y, x, dim);
  });
}

void softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim) {
  check_same_dtype("softmax_backward", "dy", dy, "y", y);
  dispatch_float(y.dtype, [&]<typename T>() {
    backward<T>("softmax_backward", &SoftmaxKernels<T>::softmax_backward, dx, dy, y, dim);
  });
}

void log_softmax_forward(Output& y, const Tensor& x, int64_t dim) {
  dispatch_float(x.dtype, [&]<typename T>() {
    forward<T>("log_softmax", &SoftmaxKernels<T>::log_softmax_forward, y, x, dim);
  });
}

void log_softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim) {
  check_same_dtype("log_softmax_backward", "dy", dy, "y", y);
  dispatch_float(y.dtype, [&]<typename T>() {
    backward<T>("log_softmax_backward", &SoftmaxKernels<T>::log_softmax_backward, dx, dy, y, dim);
  });
}

}  // namespace fastdl::ops
