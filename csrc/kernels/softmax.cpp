// softmax:      y_i = exp(x_i - m) / sum_j exp(x_j - m),      m = max_j x_j
// log_softmax:  y_i = (x_i - m) - log sum_j exp(x_j - m)
//
// x is (outer, dim, inner). With inner = 1 a row lies in a line and the lanes run along it;
// otherwise the lanes run along inner, one column each, and no lane meets another. Either way a row
// or column is read three times and written once or twice, out of the cache after the first time.
#include "kernels/softmax.h"

#include <math.h>

#include "core/parallel.h"
#include "core/reduce.h"
#include "core/vec_math.h"

namespace fastdl::FASTDL_ISA {
namespace {

// About 16k elements a block: some 10 us with exp.
constexpr int64_t kGrain = 16384;

// row(r) for every row of `dim` elements.
template <typename Row>
FASTDL_INLINE void for_each_row(int64_t rows, int64_t dim, Row&& row) {
  const int64_t grain = dim < kGrain ? kGrain / (dim > 0 ? dim : 1) : 1;
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

// column(offset of its first element, lanes) for every vector of columns of (outer, dim, inner).
template <typename T, typename Column>
FASTDL_INLINE void for_each_column(int64_t outer, int64_t dim, int64_t inner, Column&& column) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t vectors = ceil_div(inner, lanes);
  const int64_t cost = dim * lanes;
  const int64_t grain = cost < kGrain ? kGrain / (cost > 0 ? cost : 1) : 1;
  parallel_ranges(outer * vectors, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t left = inner - i % vectors * lanes;
      const int64_t offset = i / vectors * dim * inner + i % vectors * lanes;
      column(offset, static_cast<int>(left < lanes ? left : lanes));
    }
  });
}

template <typename T>
T row_max(const T* x, int64_t n) {
  Vec<T> m = broadcast(static_cast<T>(-INFINITY));
  for_each_vec<T>(n, [&](int64_t i, int lanes) {
    const Vec<T> v = load(x + i, lanes);
    m = select(first_lanes<T>(lanes), max(v, m), m);
  });
  return reduce_max(m);
}

// sum_i exp(x_i - m); visit(i, lanes, exp(x_i - m)) sees every term.
template <typename T, typename Visit>
FASTDL_INLINE double row_sum_exp(const T* x, int64_t n, T m, Visit&& visit) {
  return blocked_sum<T>(n, [&](int64_t i, int lanes) {
    const Vec<T> e = exp(load(x + i, lanes) - broadcast(m));
    visit(i, lanes, e);
    return select(first_lanes<T>(lanes), e, zero<T>());
  });
}

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
    Vec<T> m = broadcast(static_cast<T>(-INFINITY));
    for (int64_t i = 0; i < dim; ++i) m = max(load(xc + i * inner, lanes), m);
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
    Vec<T> m = broadcast(static_cast<T>(-INFINITY));
    for (int64_t i = 0; i < dim; ++i) m = max(load(xc + i * inner, lanes), m);
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
