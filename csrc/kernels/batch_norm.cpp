// y = (x - mean) * rstd * weight + bias for every channel,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight: dweight = sum dy * xhat,
// dbias = sum dy, dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) in training, else rstd * g.
//
// Both ways every channel is reduced to a few sums, and then every element is mapped: here is what
// is summed and how it is mapped; batch_norm_passes.h cuts the array.
#include "kernels/batch_norm.h"

#include <string.h>

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
  static constexpr int kSums = 3;
  const T* x;
  BatchNormSizes sizes;

  template <typename Pieces>
  FASTDL_INLINE Moments chunk(int64_t, int64_t count, Pieces&& pieces) const {
    return chunk_moments<T>(
        count, [&](auto&& f) { pieces([&](int64_t offset, int64_t n) { f(x + offset, n); }); });
  }

  // The mean of the rows of a tile, and the sums of d = x - mean and d^2.
  FASTDL_INLINE void add_tile(T* sums, int64_t row, int64_t column, int64_t n, int64_t rows) const {
    const int64_t columns = sizes.channels * sizes.inner;
    const T* from = x + row * columns + column;
    for (int k = 0; k < kSums; ++k) memset(sums + k * columns, 0, n * sizeof(T));
    add_rows<1>(sums, columns, n, rows, [=](int64_t i, int lanes, int64_t r, auto& sum) {
      sum.v[0] += load(from + r * columns + i, lanes);
    });
    for (int64_t i = 0; i < n; ++i) sums[i] /= static_cast<T>(rows);
    add_rows<2>(sums + columns, columns, n, rows, [=](int64_t i, int lanes, int64_t r, auto& sum) {
      const Vec<T> d = load(from + r * columns + i, lanes) - load(sums + i, lanes);
      sum.v[0] += d;
      sum.v[1] = fma(d, d, sum.v[1]);
    });
  }

  // As differences from the mean of the first block.
  FASTDL_INLINE void add_blocks(Moments* out, const T* sums, int64_t column, int64_t n,
                                int64_t blocks) const {
    const int64_t columns = sizes.channels * sizes.inner;
    double d[kColumns] = {}, d2[kColumns] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      const T* tile = sums + block * kSums * columns;
      const double rows = static_cast<double>(least(kRows, sizes.batch - block * kRows));
      for (int64_t i = 0; i < n; ++i) {
        const double moved = static_cast<double>(tile[i]) - static_cast<double>(sums[i]);
        const double own = static_cast<double>(tile[columns + i]);
        d[i] += own + rows * moved;
        d2[i] += static_cast<double>(tile[2 * columns + i]) + moved * (2 * own + rows * moved);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      out[i] = shifted_moments(blocks > 0 ? sums[i] : 0, d[i], d2[i], sizes.batch);
      if (is_finite(out[i].mean) && is_finite(out[i].squares)) continue;
      out[i] = wide_moments(sizes.batch, [&](auto&& f) {
        for (int64_t r = 0; r < sizes.batch; ++r) f(x + r * columns + column + i, 1);
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
  reduce_and_map<3>(a.y, a.sizes, MomentReduction<T>{a.x, a.sizes}, finish, Normalise<T>{a.x});
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
  static constexpr int kSums = 2;
  const T *dy, *x, *mean, *column_mean;  // of every channel, and of every column
  BatchNormSizes sizes;

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

  FASTDL_INLINE void add_tile(T* sums, int64_t row, int64_t column, int64_t n, int64_t rows) const {
    const int64_t columns = sizes.channels * sizes.inner, at = row * columns + column;
    for (int k = 0; k < kSums; ++k) memset(sums + k * columns, 0, n * sizeof(T));
    add_rows<2>(sums, columns, n, rows, [=, this](int64_t i, int lanes, int64_t r, auto& sum) {
      const int64_t from = at + r * columns + i;
      const Vec<T> g = load(dy + from, lanes);
      sum.v[0] += g;
      sum.v[1] = fma(g, load(x + from, lanes) - load(column_mean + column + i, lanes), sum.v[1]);
    });
  }

  FASTDL_INLINE void add_blocks(Pair* out, const T* sums, int64_t, int64_t n,
                                int64_t blocks) const {
    const int64_t columns = sizes.channels * sizes.inner;
    for (int64_t i = 0; i < n; ++i) out[i] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      const T* tile = sums + block * kSums * columns;
      for (int64_t i = 0; i < n; ++i) {
        out[i].a += static_cast<double>(tile[i]);
        out[i].b += static_cast<double>(tile[columns + i]);
      }
    }
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
  const GradientReduction<T> reduction{a.dy, a.x, a.mean, expand ? expanded.data() : a.mean, s};
  if (a.training) {
    return reduce_and_map<4>(a.dx, s, reduction, terms, TrainingGradient<T>{a.dy, a.x});
  }
  reduce_and_map<4>(a.dx, s, reduction, terms, EvaluationGradient<T>{a.dy});
}

}  // namespace

FASTDL_DEFINE_KERNELS(BatchNormKernels, batch_norm_kernels, forward_training<T>,
                      forward_evaluation<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
