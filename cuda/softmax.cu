// softmax and log_softmax over one dimension.
//
// Forward: the maximum m and the sum of exp(x - m) of a slice in one pass, the sum scaled anew
// whenever m grows (Milakov and Gimelshein, 2018, "Online normalizer calculation for softmax").
// Each result is read once from memory and written once while a slice fits the registers.
#include "cuda/softmax.h"

#include "cuda/online_sum.h"
#include "cuda/slices.h"

namespace fastdl::cuda {
namespace {

template <typename C>
struct SoftmaxResult : OnlineForward<C> {
  __device__ OnlineSum<C> ready(OnlineSum<C> s) const { return {s.max, 1 / s.sum}; }
  __device__ C result(Element<C, 1> x, OnlineSum<C> s) const {
    return exp(x.in[0] - s.max) * s.sum;
  }
};

template <typename C>
struct LogSoftmaxResult : OnlineForward<C> {
  __device__ OnlineSum<C> ready(OnlineSum<C> s) const { return {s.max, log(s.sum)}; }
  __device__ C result(Element<C, 1> x, OnlineSum<C> s) const { return x.in[0] - s.max - s.sum; }
};

struct PlainSum {
  template <typename C>
  __device__ C ready(C s) const {
    return s;
  }
};

// Inputs: dy, y.
template <typename C>
struct SoftmaxGradient : PlainSum {
  __device__ C none() const { return 0; }
  template <int N>
  __device__ void add(C& s, const Element<C, 2> (&e)[N], int count) const {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) s += e[k].in[0] * e[k].in[1];
    }
  }
  __device__ C result(Element<C, 2> e, C s) const { return e.in[1] * (e.in[0] - s); }
};

template <typename C>
struct LogSoftmaxGradient : PlainSum {
  __device__ C none() const { return 0; }
  template <int N>
  __device__ void add(C& s, const Element<C, 2> (&e)[N], int count) const {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) s += e[k].in[0];
    }
  }
  __device__ C result(Element<C, 2> e, C s) const { return e.in[0] - exp(e.in[1]) * s; }
};

template <template <typename> typename Op>
void forward(const Device& device, const Tensor& y, const Tensor& x, int64_t outer, int64_t dim,
             int64_t inner) {
  dispatch(x.dtype, [&]<typename T>() {
    map_slices(device, Op<Compute<T>>(), y.ptr<T>(), Inputs<T, 1>{{x.ptr<T>()}}, outer, dim, inner);
  });
}

template <template <typename> typename Op>
void backward(const Device& device, const Tensor& dx, const Tensor& dy, const Tensor& y,
              int64_t outer, int64_t dim, int64_t inner) {
  dispatch(y.dtype, [&]<typename T>() {
    map_slices(device, Op<Compute<T>>(), dx.ptr<T>(), Inputs<T, 2>{{dy.ptr<T>(), y.ptr<T>()}},
               outer, dim, inner);
  });
}

}  // namespace

void Softmax::softmax_forward(const Tensor& y, const Tensor& x, int64_t outer, int64_t dim,
                              int64_t inner) const {
  forward<SoftmaxResult>(device, y, x, outer, dim, inner);
}

void Softmax::softmax_backward(const Tensor& dx, const Tensor& dy, const Tensor& y, int64_t outer,
                               int64_t dim, int64_t inner) const {
  backward<SoftmaxGradient>(device, dx, dy, y, outer, dim, inner);
}

void Softmax::log_softmax_forward(const Tensor& y, const Tensor& x, int64_t outer, int64_t dim,
                                  int64_t inner) const {
  forward<LogSoftmaxResult>(device, y, x, outer, dim, inner);
}

void Softmax::log_softmax_backward(const Tensor& dx, const Tensor& dy, const Tensor& y,
                                   int64_t outer, int64_t dim, int64_t inner) const {
  backward<LogSoftmaxGradient>(device, dx, dy, y, outer, dim, inner);
}

}  // namespace fastdl::cuda
