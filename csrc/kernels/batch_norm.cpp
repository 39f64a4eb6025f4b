// y = (x - mean) * rstd * weight + bias for every channel,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight: dweight = sum dy * xhat,
// dbias = sum dy, dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) in training, else rstd * g.
//
// Both ways every channel is reduced to a few sums, and then every element is mapped: here is what
// is summed and how it is mapped; batch_norm_passes.h cuts the array.
#include "kernels/batch_norm.h"

#include "kernels/batch_norm_passes.h"
#include "kernels/moments.h"

namespace fastdl::FASTDL_ISA {
namespace {

// y = (x - t[0]) * t[1] + t[2]
template <typename T>
struct Normalise {
  const T* x;
  FASTDL_INLINE Vec<T> operator()(int64_t i, int lanes, const VecTerms<T, 3>& t) const {
    return fma(load(x + i, lanes) - t.v[0], t.v[1], t.v[2]);
  }
};

// Writes mean and rstd of channel c, and gives the terms to normalise it with.
template <typename T>
FASTDL_INLINE Terms<T, 3> normalise_terms(const BatchNormForward<T>& a, int64_t c, double mean,
                                          double var) {
  const double rstd = inverse_deviation(var, a.eps);
  const double scale = a.weight ? rstd * static_cast<double>(a.weight[c]) : rstd;
  const double bias = a.bias ? static_cast<double>(a.bias[c]) : 0;
  const Center<T> center = split_center<T>(mean);
  a.mean[c] = center.high;
  a.rstd[c] = static_cast<T>(rstd);
  const double low = static_cast<double>(center.low);
  const double shift = low == 0 ? bias : bias - low * scale;  // 0 * inf would be NaN
  return {{center.high, static_cast<T>(scale), static_cast<T>(shift)}};
}

// The moments of chunks and columns of x.
template <typename T>
struct MomentReduction {
  using Partial = Moments;
  using Sum = MomentSum;
  const T* x;

  template <typename Pieces>
  FASTDL_INLINE Moments chunk(int64_t, int64_t count, Pieces&& pieces) const {
    return chunk_moments<T>(
        count, [&](auto&& f) { pieces([&](int64_t offset, int64_t n) { f(x + offset, n); }); });
  }

  template <int vectors>
  FASTDL_INLINE void columns(Moments* out, int64_t at, int64_t, int width, int64_t rows,
                             int64_t stride) const {
    constexpr int lanes = Vec<T>::lanes;
    Vec<T> shift[vectors], d[vectors], d2[vectors];
    for (int v = 0; v < vectors; ++v) shift[v] = d[v] = d2[v] = zero<T>();
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) shift[v] += load(x + at + r * stride + v * lanes, width);
    }
    const Vec<T> count = broadcast(static_cast<T>(rows));
    for (int v = 0; v < vectors; ++v) shift[v] = shift[v] / count;
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const Vec<T> e = load(x + at + r * stride + v * lanes, width) - shift[v];
        d[v] += e;
        d2[v] = fma(e, e, d2[v]);
      }
    }
    T shifts[vectors * lanes], ds[vectors * lanes], d2s[vectors * lanes];
    for (int v = 0; v < vectors; ++v) {
      store(shifts + v * lanes, shift[v]);
      store(ds + v * lanes, d[v]);
      store(d2s + v * lanes, d2[v]);
    }
    for (int j = 0; j < (vectors > 1 ? vectors * lanes : width); ++j) {
      out[j] = shifted_moments(shifts[j], ds[j], d2s[j], rows);
      if (is_finite(out[j].mean) && is_finite(out[j].squares)) continue;
      out[j] = wide_moments(rows, [&](auto&& f) {
        for (int64_t r = 0; r < rows; ++r) f(x + at + r * stride + j, 1);
      });
    }
  }
};

FASTDL_INLINE double moved(double running, double batch, double momentum) {
  return (1 - momentum) * running + momentum * batch;
}

template <typename T>
void forward_training(const BatchNormForward<T>& a) {
  const auto finish = [&](int64_t c, const MomentSum& sum) {
    const double n = sum.count(), mean = sum.mean(), squares = sum.squares();
    if (n > 0 && a.running_mean) {
      a.running_mean[c] = static_cast<T>(moved(a.running_mean[c], mean, a.momentum));
      a.running_var[c] = static_cast<T>(moved(a.running_var[c], squares / (n - 1), a.momentum));
    }
    return normalise_terms(a, c, mean, n > 0 ? squares / n : 0);
  };
  reduce_and_map<3>(a.y, a.sizes, MomentReduction<T>{a.x}, finish, Normalise<T>{a.x});
}

template <typename T>
void forward_evaluation(const BatchNormForward<T>& a) {
  const Workspace<Terms<T, 3>> terms(a.sizes.channels);
  for (int64_t c = 0; c < a.sizes.channels; ++c) {
    terms.data()[c] = normalise_terms(a, c, a.running_mean[c], a.running_var[c]);
  }
  map_all(a.y, a.sizes, terms.data(), Normalise<T>{a.x});
}

// sum dy and sum dy * (x - mean) of chunks and columns.
template <typename T>
struct GradientReduction {
  using Partial = Pair;
  struct Sum : Pair {
    FASTDL_INLINE void add(Pair chunk, int64_t) {
      a += chunk.a;
      b += chunk.b;
    }
  };
  const T *dy, *x, *mean, *column_mean;  // of every channel, and of every column

  template <typename Pieces>
  FASTDL_INLINE Pair chunk(int64_t c, int64_t, Pieces&& pieces) const {
    const Vec<T> center = broadcast(mean[c]);
    PairSums<T> sums;
    pieces([&](int64_t offset, int64_t n) {
      sums.add(n, [&](int64_t i, int lanes, Vec<T>& a, Vec<T>& b) {
        const Vec<T> g = load(dy + offset + i, lanes);
        a += g;
        b = fma(g, load(x + offset + i, lanes) - center, b);
      });
    });
    return {sums.sum_a(), sums.sum_b()};
  }

  template <int vectors>
  FASTDL_INLINE void columns(Pair* out, int64_t at, int64_t column, int width, int64_t rows,
                             int64_t stride) const {
    constexpr int lanes = Vec<T>::lanes;
    Vec<T> center[vectors], a[vectors], b[vectors];
    for (int v = 0; v < vectors; ++v) {
      center[v] = load(column_mean + column + v * lanes, width);
      a[v] = b[v] = zero<T>();
    }
    for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const int64_t i = at + r * stride + v * lanes;
        const Vec<T> g = load(dy + i, width);
        a[v] += g;
        b[v] = fma(g, load(x + i, width) - center[v], b[v]);
      }
    }
    T as[vectors * lanes], bs[vectors * lanes];
    for (int v = 0; v < vectors; ++v) {
      store(as + v * lanes, a[v]);
      store(bs + v * lanes, b[v]);
    }
    for (int j = 0; j < (vectors > 1 ? vectors * lanes : width); ++j) out[j] = {as[j], bs[j]};
  }
};

// dx = ((dy - t[1]) - (x - t[0]) * t[2]) * t[3]
template <typename T>
struct TrainingGradient {
  const T *dy, *x;
  FASTDL_INLINE Vec<T> operator()(int64_t i, int lanes, const VecTerms<T, 4>& t) const {
    const Vec<T> centered = load(x + i, lanes) - t.v[0];
    return fnma(centered, t.v[2], load(dy + i, lanes) - t.v[1]) * t.v[3];
  }
};
template <typename T>
struct EvaluationGradient {
  const T* dy;
  FASTDL_INLINE Vec<T> operator()(int64_t i, int lanes, const VecTerms<T, 4>& t) const {
    return load(dy + i, lanes) * t.v[3];
  }
};

template <typename T>
void backward(const BatchNormBackward<T>& a) {
  const BatchNormSizes s = a.sizes;
  const double count = static_cast<double>(s.batch * s.inner);
  const auto terms = [&](int64_t c, const Pair& sum) {
    const double rstd = a.rstd[c], scale = a.weight ? rstd * a.weight[c] : rstd;
    if (a.dweight) a.dweight[c] = static_cast<T>(rstd * sum.b);
    if (a.dbias) a.dbias[c] = static_cast<T>(sum.a);
    return Terms<T, 4>{{a.mean[c], static_cast<T>(sum.a / count),
                        static_cast<T>(rstd * rstd * sum.b / count), static_cast<T>(scale)}};
  };
  if (!a.training && !a.dweight && !a.dbias) {  // nothing to sum: a frozen layer
    const Workspace<Terms<T, 4>> channels(s.channels);
    for (int64_t c = 0; c < s.channels; ++c) channels.data()[c] = terms(c, Pair{});
    if (a.dx) map_all(a.dx, s, channels.data(), EvaluationGradient<T>{a.dy});
    return;
  }
  // In 2-D the columns are the channels.
  const bool expand = s.inner > 1 && s.inner < kBatchNormPlane;
  const Workspace<T> expanded(expand ? s.channels * s.inner : 0);
  for (int64_t j = 0; expand && j < s.channels * s.inner; ++j) {
    expanded.data()[j] = a.mean[j / s.inner];
  }
  const GradientReduction<T> reduction{a.dy, a.x, a.mean, expand ? expanded.data() : a.mean};
  if (a.training) {
    return reduce_and_map<4>(a.dx, s, reduction, terms, TrainingGradient<T>{a.dy, a.x});
  }
  reduce_and_map<4>(a.dx, s, reduction, terms, EvaluationGradient<T>{a.dy});
}

}  // namespace

FASTDL_DEFINE_KERNELS(BatchNormKernels, batch_norm_kernels, forward_training<T>,
                      forward_evaluation<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
