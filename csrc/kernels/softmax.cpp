// softmax:      y_i = exp(x_i - m) / sum_j exp(x_j - m),      m = max_j x_j
// log_softmax:  y_i = (x_i - m) - log sum_j exp(x_j - m)
//
// x is (outer, dim, inner). With inner = 1 a row lies in a line and the lanes run along it;
// otherwise the lanes run along inner, one column each, and no lane meets another. Either way
// memory is read once and written once: rows by the online softmax (Milakov and Gimelshein 2018)
// over blocks, columns from copies in the cache.
#include "kernels/softmax.h"

#include "kernels/slices.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void softmax_forward(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner) {
  if (inner == 1) {
    using Exp = RowExp<T>;
    constexpr int lanes = Vec<T>::lanes;
    const bool past = past_cache<T>(2, outer * dim);
    // What goes past the caches waits in them for its sum, longer rows and all others in y, whose
    // lines then come in while the exponentials are computed.
    const bool cached = past && dim * static_cast<int64_t>(sizeof(T)) <= kScratch;
    const int64_t size = Exp::statistics_size(dim);
    return for_each_row<T>(outer, dim, size + (cached ? dim : 0), [=](int64_t r, T* scratch) {
      T* yr = y + r * dim;
      T* e = cached ? scratch + size : yr;
      const Exp row(e, x + r * dim, dim, scratch);
      for (int64_t k = 0; k * Exp::kBlock < dim; ++k) {
        const int64_t begin = k * Exp::kBlock;
        const int64_t n = dim - begin < Exp::kBlock ? dim - begin : Exp::kBlock;
        // Twice, for the vectors of `write`, which may begin at any lane.
        T scale[2 * lanes];
        store(scale, row.factor(k) / broadcast(row.sum));
        store(scale + lanes, load(scale));
        write(yr + begin, n, past, [&](int64_t i, int count) FASTDL_INLINE_LAMBDA {
          return load(e + begin + i, count) * load(scale + i % lanes);
        });
      }
    });
  }
  for_each_column<T>(
      outer, dim, inner, {{x}, {y}}, true, [=](Slices<T> s, int64_t, int64_t stride, int lanes) {
        const T* xc = s.in[0];
        T* yc = s.out[0];
        const Vec<T> m = column_max(xc, dim, stride, lanes);
        const Vec<T> sum = blocked_lane_sum<T>(dim, [&](int64_t i) FASTDL_INLINE_LAMBDA {
          const Vec<T> e = exp(load(xc + i * stride, lanes) - m);
          store(yc + i * stride, e, lanes);
          return e;
        });
        const Vec<T> scale = broadcast(T(1)) / sum;
        for (int64_t i = 0; i < dim; ++i) {
          store(yc + i * stride, load(yc + i * stride, lanes) * scale, lanes);
        }
      });
}

template <typename T>
void log_softmax_forward(T* y, const T* x, int64_t outer, int64_t dim, int64_t inner) {
  if (inner == 1) {
    const bool past = past_cache<T>(2, outer * dim);
    const int64_t size = RowExp<T>::statistics_size(dim);
    return for_each_row<T>(outer, dim, size, [=](int64_t r, T* scratch) {
      const T* xr = x + r * dim;
      // The exponentials bring the lines of y in.
      const RowExp<T> row(past ? nullptr : y + r * dim, xr, dim, scratch);
      const Vec<T> m = broadcast(row.max), log_sum = log(broadcast(row.sum));
      write(y + r * dim, dim, past, [=](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
        return (load(xr + i, lanes) - m) - log_sum;
      });
    });
  }
  for_each_column<T>(
      outer, dim, inner, {{x}, {y}}, true, [=](Slices<T> s, int64_t, int64_t stride, int lanes) {
        const T* xc = s.in[0];
        const Vec<T> m = column_max(xc, dim, stride, lanes);
        const Vec<T> log_sum = log(blocked_lane_sum<T>(dim, [&](int64_t i) FASTDL_INLINE_LAMBDA {
          return exp(load(xc + i * stride, lanes) - m);
        }));
        for (int64_t i = 0; i < dim; ++i) {
          store(s.out[0] + i * stride, (load(xc + i * stride, lanes) - m) - log_sum, lanes);
        }
      });
}

// dx_i = gradient(dy_i, y_i, sum_j term(dy_j, y_j)): the shape of both backwards.
template <typename T, typename Term, typename Gradient>
FASTDL_INLINE void backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                            int64_t inner, Term term, Gradient gradient) {
  if (inner == 1) {
    const bool past = past_cache<T>(3, outer * dim);
    return for_each_row<T>(outer, dim, 0, [=](int64_t r, T*) {
      const T *dyr = dy + r * dim, *yr = y + r * dim;
      const Vec<T> total = broadcast(
          static_cast<T>(blocked_sum<T>(dim, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
            return term(load(dyr + i, lanes), load(yr + i, lanes));
          })));
      write(dx + r * dim, dim, past, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
        if (past) {
          __builtin_prefetch(dyr + i + kAhead);
          __builtin_prefetch(yr + i + kAhead);
        }
        return gradient(load(dyr + i, lanes), load(yr + i, lanes), total);
      });
    });
  }
  for_each_column<T>(
      outer, dim, inner, {{dy, y}, {dx}}, true,
      [=](Slices<T> s, int64_t, int64_t stride, int lanes) {
        const T *dyc = s.in[0], *yc = s.in[1];
        const Vec<T> sum = blocked_lane_sum<T>(dim, [&](int64_t i) FASTDL_INLINE_LAMBDA {
          return term(load(dyc + i * stride, lanes), load(yc + i * stride, lanes));
        });
        for (int64_t i = 0; i < dim; ++i) {
          const int64_t at = i * stride;
          store(s.out[0] + at, gradient(load(dyc + at, lanes), load(yc + at, lanes), sum), lanes);
        }
      });
}

template <typename T>
void softmax_backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim, int64_t inner) {
  backward(
      dx, dy, y, outer, dim, inner, [](Vec<T> dy, Vec<T> y) FASTDL_INLINE_LAMBDA { return dy * y; },
      [](Vec<T> dy, Vec<T> y, Vec<T> sum) FASTDL_INLINE_LAMBDA { return y * (dy - sum); });
}

template <typename T>
void log_softmax_backward(T* dx, const T* dy, const T* y, int64_t outer, int64_t dim,
                          int64_t inner) {
  backward(
      dx, dy, y, outer, dim, inner, [](Vec<T> dy, Vec<T>) FASTDL_INLINE_LAMBDA { return dy; },
      [](Vec<T> dy, Vec<T> y, Vec<T> sum) FASTDL_INLINE_LAMBDA { return fnma(exp(y), sum, dy); });
}

}  // namespace

FASTDL_DEFINE_KERNELS(SoftmaxKernels, softmax_kernels, softmax_forward<T>, softmax_backward<T>,
                      log_softmax_forward<T>, log_softmax_backward<T>)

}  // namespace fastdl::FASTDL_ISA
