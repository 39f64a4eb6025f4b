// softmax:      y_i = exp(x_i - m) / sum_j exp(x_j - m),      m = max_j x_j
// log_softmax:  y_i = (x_i - m) - log sum_j exp(x_j - m)
//
// x is (outer, dim, inner). With inner = 1 a row lies in a line and the lanes run along it;
// otherwise the lanes run along inner, one column each, and no lane meets another. Either way a row
// or column is read three times and written once or twice, out of the cache after the first time.
#include "kernels/softmax.h"

#include <math.h>

#include "kernels/slices.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void softmax_forward(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner) {
  if (inner == 1) {
    return for_each_row(outer, dim, [=](int64_t r) {
      const T* xr = x + r * dim;
      T* yr = y + r * dim;
      const double sum =
          row_sum_exp(xr, dim, row_max(xr, dim),
                      [&](int64_t i, int lanes, Vec<T> e) { store(yr + i, e, lanes); });
      const Vec<T> scale = broadcast(static_cast<T>(1 / sum));
      for_each_vec<T>(
          dim, [&](int64_t i, int lanes) { store(yr + i, load(yr + i, lanes) * scale, lanes); });
    });
  }
  for_each_column<T>(outer, dim, inner, [=](int64_t offset, int lanes) {
    const T* xc = x + offset;
    T* yc = y + offset;
    const Vec<T> m = column_max(xc, dim, inner, lanes);
    const Vec<T> sum = blocked_lane_sum<T>(dim, [&](int64_t i) {
      const Vec<T> e = exp(load(xc + i * inner, lanes) - m);
      store(yc + i * inner, e, lanes);
      return e;
    });
    const Vec<T> scale = broadcast(T(1)) / sum;
    for (int64_t i = 0; i < dim; ++i) {
      store(yc + i * inner, load(yc + i * inner, lanes) * scale, lanes);
    }
  });
}

template <typename T>
void log_softmax_forward(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner) {
  if (inner == 1) {
    return for_each_row(outer, dim, [=](int64_t r) {
      const T* xr = x + r * dim;
      const T m = row_max(xr, dim);
      const T log_sum = static_cast<T>(log(row_sum_exp(xr, dim, m, [](int64_t, int, Vec<T>) {})));
      for_each_vec<T>(dim, [&](int64_t i, int lanes) {
        const Vec<T> shifted = load(xr + i, lanes) - broadcast(m);
        store(y + r * dim + i, shifted - broadcast(log_sum), lanes);
      });
    });
  }
  for_each_column<T>(outer, dim, inner, [=](int64_t offset, int lanes) {
    const T* xc = x + offset;
    const Vec<T> m = column_max(xc, dim, inner, lanes);
    const Vec<T> sum =
        blocked_lane_sum<T>(dim, [&](int64_t i) { return exp(load(xc + i * inner, lanes) - m); });
    T logs[Vec<T>::lanes];
    store(logs, sum);
    for (T& value : logs) value = static_cast<T>(log(static_cast<double>(value)));
    const Vec<T> log_sum = load(logs);
    for (int64_t i = 0; i < dim; ++i) {
      store(y + offset + i * inner, load(xc + i * inner, lanes) - m - log_sum, lanes);
    }
  });
}

// dx_i = gradient(dy_i, y_i, sum_j term(dy_j, y_j)): the shape of both backwards.
template <typename T, typename Term, typename Gradient>
FASTDL_INLINE void backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                            int64_t inner, Term term, Gradient gradient) {
  if (inner == 1) {
    return for_each_row(outer, dim, [=](int64_t r) {
      const T *dyr = dy + r * dim, *yr = y + r * dim;
      const Vec<T> total = broadcast(static_cast<T>(blocked_sum<T>(dim, [&](int64_t i, int lanes) {
        return term(load(dyr + i, lanes), load(yr + i, lanes));
      })));
      for_each_vec<T>(dim, [&](int64_t i, int lanes) {
        store(dx + r * dim + i, gradient(load(dyr + i, lanes), load(yr + i, lanes), total), lanes);
      });
    });
  }
  for_each_column<T>(outer, dim, inner, [=](int64_t offset, int lanes) {
    const T *dyc = dy + offset, *yc = y + offset;
    const Vec<T> sum = blocked_lane_sum<T>(dim, [&](int64_t i) {
      return term(load(dyc + i * inner, lanes), load(yc + i * inner, lanes));
    });
    for (int64_t i = 0; i < dim; ++i) {
      const int64_t at = i * inner;
      store(dx + offset + at, gradient(load(dyc + at, lanes), load(yc + at, lanes), sum), lanes);
    }
  });
}

template <typename T>
void softmax_backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim, int64_t inner) {
  backward(
      dx, dy, y, outer, dim, inner, [](Vec<T> dy, Vec<T> y) { return dy * y; },
      [](Vec<T> dy, Vec<T> y, Vec<T> sum) { return y * (dy - sum); });
}

template <typename T>
void log_softmax_backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                          int64_t inner) {
  backward(
      dx, dy, y, outer, dim, inner, [](Vec<T> dy, Vec<T>) { return dy; },
      [](Vec<T> dy, Vec<T> y, Vec<T> sum) { return fnma(exp(y), sum, dy); });
}

}  // namespace

FASTDL_DEFINE_KERNELS(SoftmaxKernels, softmax_kernels, softmax_forward<T>, softmax_backward<T>,
                      log_softmax_forward<T>, log_softmax_backward<T>)

}  // namespace fastdl::FASTDL_ISA
