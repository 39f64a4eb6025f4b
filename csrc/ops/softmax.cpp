#include "ops/softmax.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/softmax.h"
#include "kernels/softmax.h"
#include "ops/convert.h"

namespace fastdl::ops {
namespace {

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

// call(kernels, y, x, outer, dim, inner) with pointers of the type x is computed in, or with the
// launchers and tensors.
template <typename Call>
void forward(const char* op, Output& y, const Tensor& x, int64_t dim, Call&& call) {
  const Sizes s = split(op, x, dim);
  const Tensor& out = y.make(op, x.shape, x.dtype);
  const double n = static_cast<double>(x.numel());
  trace(kernel_name(s), 4 * n, 2 * n * static_cast<double>(dtype_size(x.dtype)));
  if (s.empty()) return;
  if (on_device([&](const Device& device) {
        call(cuda::Softmax{device}, out, x, s.outer, s.dim, s.inner);
      })) {
    return;
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    map_slices<T, 1>(out, {&x}, s.dim * s.inner, [&](T* y, const auto& x, int64_t slices) {
      call(softmax_kernels<T>(), y, x[0], slices, s.dim, s.inner);
    });
  });
}

template <typename Call>
void backward(const char* op, Output& dx, const Tensor& dy, const Tensor& y, int64_t dim,
              Call&& call) {
  check_same_dtype(op, "dy", dy, "y", y);
  const Sizes s = split(op, y, dim);
  check_shape(op, "dy", dy, y.shape);
  const Tensor& out = dx.make(op, y.shape, y.dtype);
  const double n = static_cast<double>(y.numel());
  trace(kernel_name(s), 4 * n, 3 * n * static_cast<double>(dtype_size(y.dtype)));
  if (s.empty()) return;
  if (on_device([&](const Device& device) {
        call(cuda::Softmax{device}, out, dy, y, s.outer, s.dim, s.inner);
      })) {
    return;
  }
  dispatch_float(y.dtype, [&]<typename T>() {
    map_slices<T, 2>(out, {&dy, &y}, s.dim * s.inner, [&](T* dx, const auto& x, int64_t slices) {
      call(softmax_kernels<T>(), dx, x[0], x[1], slices, s.dim, s.inner);
    });
  });
}

}  // namespace

void softmax_forward(Output& y, const Tensor& x, int64_t dim) {
  forward("softmax", y, x, dim,
          [](const auto& kernels, const auto&... args) { kernels.softmax_forward(args...); });
}

void softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim) {
  backward("softmax_backward", dx, dy, y, dim,
           [](const auto& kernels, const auto&... args) { kernels.softmax_backward(args...); });
}

void log_softmax_forward(Output& y, const Tensor& x, int64_t dim) {
  forward("log_softmax", y, x, dim,
          [](const auto& kernels, const auto&... args) { kernels.log_softmax_forward(args...); });
}

void log_softmax_backward(Output& dx, const Tensor& dy, const Tensor& y, int64_t dim) {
  backward("log_softmax_backward", dx, dy, y, dim,
           [](const auto& kernels, const auto&... args) { kernels.log_softmax_backward(args...); });
}

}  // namespace fastdl::ops
