// loss = -sum_c weight_c * q_c * log p_c,  log p_c = (x_c - m) - log sum_j exp(x_j - m),
// q = (1 - s) * target + s / C, where a class index t means target = 1 at t and 0 elsewhere.
//
// Backward, with dloss the gradient of the loss: dx_c = dloss * (p_c * sum_j weight_j q_j -
// weight_c q_c), made in one go with the exponentials; log p is never stored.
//
// The kernels are written once for a slice along the classes: a Row with the lanes along it, or a
// Column with a sample in every lane.
#include "kernels/cross_entropy.h"

#include <math.h>

#include "kernels/slices.h"

namespace fastdl::FASTDL_ISA {
namespace {

FASTDL_INLINE float log_of(float v) { return ::logf(v); }
FASTDL_INLINE double log_of(double v) { return ::log(v); }

// f(i, lanes, weights) sees the elements i, i + 1, ... of one slice and their classes' weights.
template <typename T>
struct Row {
  int64_t begin, sample, classes;
  const T* weights;
  static constexpr int samples = 1;

  FASTDL_INLINE int64_t element(int64_t c, int) const { return begin + c; }

  template <typename F>
  FASTDL_INLINE void for_each(F&& f) const {
    for_each_vec<T>(classes, [&](int64_t c, int lanes) { f(begin + c, lanes, weight(c, lanes)); });
  }
  template <typename Term>
  FASTDL_INLINE Vec<T> sum(Term&& term) const {
    const double total = blocked_sum<T>(classes, [&](int64_t c, int lanes) {
      return select(first_lanes<T>(lanes), term(begin + c, lanes, weight(c, lanes)), zero<T>());
    });
    return broadcast(static_cast<T>(total));
  }
  FASTDL_INLINE Vec<T> max(const T* x) const { return broadcast(row_max(x + begin, classes)); }
  FASTDL_INLINE Vec<T> from_samples(const T* values) const { return broadcast(values[0]); }

 private:
  FASTDL_INLINE Vec<T> weight(int64_t c, int lanes) const {
    return weights ? load(weights + c, lanes) : broadcast(T(1));
  }
};

template <typename T>
struct Column {
  int64_t begin, sample, classes, inner;
  const T* weights;
  int samples;

  FASTDL_INLINE int64_t element(int64_t c, int lane) const { return begin + c * inner + lane; }

  template <typename F>
  FASTDL_INLINE void for_each(F&& f) const {
    for (int64_t c = 0; c < classes; ++c) f(begin + c * inner, samples, weight(c));
  }
  template <typename Term>
  FASTDL_INLINE Vec<T> sum(Term&& term) const {
    return blocked_lane_sum<T>(
        classes, [&](int64_t c) { return term(begin + c * inner, samples, weight(c)); });
  }
  FASTDL_INLINE Vec<T> max(const T* x) const {
    return column_max(x + begin, classes, inner, samples);
  }
  FASTDL_INLINE Vec<T> from_samples(const T* values) const { return load(values, samples); }

 private:
  FASTDL_INLINE Vec<T> weight(int64_t c) const { return broadcast(weights ? weights[c] : T(1)); }
};

// f(slice) for every row or vector of columns of x.
template <typename T, typename F>
FASTDL_INLINE void for_each_slice(ClassSizes s, const T* weights, F&& f) {
  if (s.inner == 1) {
    return for_each_row(s.outer, s.classes,
                        [&](int64_t r) { f(Row<T>{r * s.classes, r, s.classes, weights}); });
  }
  for_each_column<T>(s.outer, s.classes, s.inner, [&](int64_t offset, int lanes) {
    const int64_t image = s.classes * s.inner;
    const int64_t sample = offset / image * s.inner + offset % image;
    f(Column<T>{offset, sample, s.classes, s.inner, weights, lanes});
  });
}

// log sum_c exp(x_c - m) of every sample; visit(i, lanes, exp(x_c - m)) sees every term.
template <typename T>
struct LogSum {
  T values[Vec<T>::lanes], sums[Vec<T>::lanes];

  template <typename Slice, typename Visit>
  FASTDL_INLINE LogSum(const Slice& slice, const T* x, Vec<T> m, Visit&& visit) {
    store(sums, slice.sum([&](int64_t i, int lanes, Vec<T>) {
      const Vec<T> e = exp(load(x + i, lanes) - m);
      visit(i, lanes, e);
      return e;
    }));
    for (int lane = 0; lane < slice.samples; ++lane) values[lane] = log_of(sums[lane]);
  }
};

constexpr auto kNoVisit = [](int64_t, int, const auto&) {};

// The shares of the target and of each class in q.
struct Smoothing {
  double target, each;
  FASTDL_INLINE Smoothing(double label_smoothing, int64_t classes)
      : target(1 - label_smoothing), each(label_smoothing / static_cast<double>(classes)) {}
};

template <typename T, typename Slice>
FASTDL_INLINE bool all_ignored(const Slice& slice, const int64_t* target, int64_t ignore_index) {
  for (int lane = 0; lane < slice.samples; ++lane) {
    if (target[slice.sample + lane] != ignore_index) return false;
  }
  return true;
}

template <typename T>
void index_forward(T* loss, const T* x, const int64_t* target, const T* weight, ClassSizes sizes,
                   int64_t ignore_index, double label_smoothing) {
  const Smoothing q(label_smoothing, sizes.classes);
  for_each_slice(sizes, weight, [=](const auto& slice) {
    T maxima[Vec<T>::lanes], smooth[Vec<T>::lanes];
    if (all_ignored<T>(slice, target, ignore_index)) {
      for (int lane = 0; lane < slice.samples; ++lane) loss[slice.sample + lane] = 0;
      return;
    }
    const Vec<T> m = slice.max(x);
    const LogSum<T> log_sum(slice, x, m, kNoVisit);
    store(maxima, m);
    if (q.each > 0) {
      const Vec<T> log_sums = slice.from_samples(log_sum.values);
      const Vec<T> each = broadcast(static_cast<T>(q.each));
      store(smooth, slice.sum([&](int64_t i, int lanes, Vec<T> w) {
        return w * each * ((load(x + i, lanes) - m) - log_sums);
      }));
    }
    for (int lane = 0; lane < slice.samples; ++lane) {
      const int64_t t = target[slice.sample + lane];
      double value = 0;
      if (t != ignore_index) {
        const T log_p = (x[slice.element(t, lane)] - maxima[lane]) - log_sum.values[lane];
        // What enters with a factor 0 does not enter, be it inf.
        if (q.target > 0)
          value -= q.target * static_cast<double>((weight ? weight[t] : T(1)) * log_p);
        if (q.each > 0) value -= static_cast<double>(smooth[lane]);
      }
      loss[slice.sample + lane] = static_cast<T>(value);
    }
  });
}

template <typename T>
double total_weight(const T* weight, int64_t classes) {
  if (!weight) return static_cast<double>(classes);
  double total = 0;
  for (int64_t c = 0; c < classes; ++c) total += static_cast<double>(weight[c]);
  return total;
}

template <typename T>
void index_backward(T* dx, const T* dloss, int64_t step, const T* x, const int64_t* target,
                    const T* weight, ClassSizes sizes, int64_t ignore_index,
                    double label_smoothing) {
  const Smoothing q(label_smoothing, sizes.classes);
  const double each_total = q.each > 0 ? q.each * total_weight(weight, sizes.classes) : 0;
  for_each_slice(sizes, weight, [=](const auto& slice) {
    // Of each sample: the factors of exp(x - m), of the smoothed weights and at the target.
    T scale[Vec<T>::lanes], smooth[Vec<T>::lanes], at_target[Vec<T>::lanes];
    const Vec<T> m = slice.max(x);
    const LogSum<T> log_sum(slice, x, m,
                            [=](int64_t i, int lanes, Vec<T> e) { store(dx + i, e, lanes); });
    for (int lane = 0; lane < slice.samples; ++lane) {
      const int64_t s = slice.sample + lane, t = target[s];
      scale[lane] = 0 / log_sum.sums[lane];
      smooth[lane] = at_target[lane] = 0;
      if (t == ignore_index) continue;
      const double d = static_cast<double>(dloss[s * step]);
      const double w =
          q.target > 0 ? q.target * (weight ? static_cast<double>(weight[t]) : 1.0) : 0;
      scale[lane] = static_cast<T>(d * (w + each_total) / static_cast<double>(log_sum.sums[lane]));
      smooth[lane] = static_cast<T>(d * q.each);
      at_target[lane] = static_cast<T>(d * w);
    }
    const Vec<T> scales = slice.from_samples(scale), smooths = slice.from_samples(smooth);
    if (q.each > 0) {
      slice.for_each([=](int64_t i, int lanes, Vec<T> w) {
        store(dx + i, fnma(smooths, w, load(dx + i, lanes) * scales), lanes);
      });
    } else {
      slice.for_each([=](int64_t i, int lanes, Vec<T>) {
        store(dx + i, load(dx + i, lanes) * scales, lanes);
      });
    }
    for (int lane = 0; lane < slice.samples; ++lane) {
      const int64_t t = target[slice.sample + lane];
      if (t != ignore_index && q.target > 0) dx[slice.element(t, lane)] -= at_target[lane];
    }
  });
}

template <typename T>
void probability_forward(T* loss, const T* x, const T* target, const T* weight, ClassSizes sizes,
                         double label_smoothing) {
  const Smoothing q(label_smoothing, sizes.classes);
  const Vec<T> kept = broadcast(static_cast<T>(q.target)), each = broadcast(static_cast<T>(q.each));
  for_each_slice(sizes, weight, [=](const auto& slice) {
    const Vec<T> m = slice.max(x);
    const LogSum<T> log_sum(slice, x, m, kNoVisit);
    const Vec<T> log_sums = slice.from_samples(log_sum.values);
    const Vec<T> sum = slice.sum([&](int64_t i, int lanes, Vec<T> w) {
      const Vec<T> log_p = (load(x + i, lanes) - m) - log_sums;
      return w * fma(kept, load(target + i, lanes), each) * log_p;
    });
    store(loss + slice.sample, -sum, slice.samples);
  });
}

template <typename T>
void probability_backward(T* dx, T* dtarget, const T* dloss, int64_t step, const T* x,
                          const T* target, const T* weight, ClassSizes sizes,
                          double label_smoothing) {
  const Smoothing q(label_smoothing, sizes.classes);
  const Vec<T> kept = broadcast(static_cast<T>(q.target)), each = broadcast(static_cast<T>(q.each));
  for_each_slice(sizes, weight, [=](const auto& slice) {
    const Vec<T> m = slice.max(x);
    const LogSum<T> log_sum(slice, x, m, [=](int64_t i, int lanes, Vec<T> e) {
      if (dx) store(dx + i, e, lanes);
    });
    const Vec<T> log_sums = slice.from_samples(log_sum.values);
    const Vec<T> d = step ? slice.from_samples(dloss + slice.sample) : broadcast(dloss[0]);
    if (dx) {
      const auto share = [=](int64_t i, int lanes, Vec<T> w) {
        return w * fma(kept, load(target + i, lanes), each);
      };
      const Vec<T> scale = d * slice.sum(share) / slice.from_samples(log_sum.sums);
      slice.for_each([=](int64_t i, int lanes, Vec<T> w) {
        store(dx + i, fnma(share(i, lanes, w), d, load(dx + i, lanes) * scale), lanes);
      });
    }
    if (dtarget) {
      slice.for_each([=](int64_t i, int lanes, Vec<T> w) {
        store(dtarget + i, -(kept * w * d) * ((load(x + i, lanes) - m) - log_sums), lanes);
      });
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(CrossEntropyKernels, cross_entropy_kernels, index_forward<T>,
                      index_backward<T>, probability_forward<T>, probability_backward<T>)

}  // namespace fastdl::FASTDL_ISA
