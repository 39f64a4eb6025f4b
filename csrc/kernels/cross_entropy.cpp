// loss = -sum_c weight_c * q_c * log p_c,  log p_c = (x_c - m) - log sum_j exp(x_j - m),
// q = (1 - s) * target + s / C, where a class index t means target = 1 at t and 0 elsewhere.
//
// Backward, with dloss the gradient of the loss: dx_c = dloss * (p_c * sum_j weight_j q_j -
// weight_c q_c), made in one go with the exponentials, x read once; log p is never stored.
//
// The kernels are written once for a slice along the classes: a Row with the lanes along it, or a
// Column with a sample in every lane.
#include "kernels/cross_entropy.h"

#include "kernels/slices.h"

namespace fastdl::FASTDL_ISA {
namespace {

// Of the samples of a slice: max x, sum_c exp(x_c - max) and its logarithm. What it left of
// exp(x - max) must be multiplied by factor(block).
template <typename T>
struct LogSum {
  Vec<T> max, sum, log_sum;
  const T* factors;

  FASTDL_INLINE Vec<T> factor(int64_t block) const {
    return factors ? load(factors + block * Vec<T>::lanes) : broadcast(T(1));
  }
};

// f(i, lanes, weights, block) sees the elements i, i + 1, ... of one slice and their classes'
// weights.
template <typename T>
struct Row {
  int64_t sample, classes;
  const T* weights;
  T* statistics;
  static constexpr int samples = 1;
  static constexpr int64_t kBlock = RowExp<T>::kBlock;

  FASTDL_INLINE int64_t element(int64_t c, int) const { return c; }

  template <typename F>
  FASTDL_INLINE void for_each(F&& f) const {
    for (int64_t begin = 0; begin < classes; begin += kBlock) {
      const int64_t n = classes - begin < kBlock ? classes - begin : kBlock;
      for_each_vec<T>(n, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
        f(begin + i, lanes, weight(begin + i, lanes), begin / kBlock);
      });
    }
  }
  template <typename Term>
  FASTDL_INLINE Vec<T> sum(Term&& term) const {
    const double total = blocked_sum<T>(classes, [&](int64_t c, int lanes) FASTDL_INLINE_LAMBDA {
      return select(first_lanes<T>(lanes), term(c, lanes, weight(c, lanes)), zero<T>());
    });
    return broadcast(static_cast<T>(total));
  }
  // e, or null, gets exp(x - max) but for the factors.
  FASTDL_INLINE LogSum<T> log_sum(T* e, const T* x) const {
    const RowExp<T> row(e, x, classes, statistics);
    return {broadcast(row.max), broadcast(row.sum), log(broadcast(row.sum)), statistics};
  }
  FASTDL_INLINE Vec<T> from_samples(const T* values) const { return broadcast(values[0]); }

 private:
  FASTDL_INLINE Vec<T> weight(int64_t c, int lanes) const {
    return weights ? load(weights + c, lanes) : broadcast(T(1));
  }
};

template <typename T>
struct Column {
  int64_t sample, classes, stride;
  const T* weights;
  int samples;

  FASTDL_INLINE int64_t element(int64_t c, int lane) const { return c * stride + lane; }

  template <typename F>
  FASTDL_INLINE void for_each(F&& f) const {
    for (int64_t c = 0; c < classes; ++c) f(c * stride, samples, weight(c), int64_t{0});
  }
  template <typename Term>
  FASTDL_INLINE Vec<T> sum(Term&& term) const {
    return blocked_lane_sum<T>(classes, [&](int64_t c) FASTDL_INLINE_LAMBDA {
      return term(c * stride, samples, weight(c));
    });
  }
  FASTDL_INLINE LogSum<T> log_sum(T* e, const T* x) const {
    const Vec<T> max = column_max(x, classes, stride, samples);
    const Vec<T> total = sum([&](int64_t i, int lanes, Vec<T>) FASTDL_INLINE_LAMBDA {
      const Vec<T> v = exp(load(x + i, lanes) - max);
      if (e) store(e + i, v, lanes);
      return v;
    });
    return {max, total, log(total), nullptr};
  }
  FASTDL_INLINE Vec<T> from_samples(const T* values) const { return load(values, samples); }

 private:
  FASTDL_INLINE Vec<T> weight(int64_t c) const { return broadcast(weights ? weights[c] : T(1)); }
};

// f(slice, its part of the arrays) for every row or vector of columns. Results of a row are made in
// the cache, where single elements can still change, and then written in one go.
template <typename T, typename F>
FASTDL_INLINE void for_each_slice(ClassSizes sizes, const T* weights, Slices<T> arrays, F&& f) {
  const int64_t classes = sizes.classes;
  if (sizes.inner != 1) {
    return for_each_column<T>(sizes.outer, classes, sizes.inner, arrays, false,
                              [=](Slices<T> slices, int64_t offset, int64_t stride, int lanes) {
                                const int64_t image = classes * sizes.inner;
                                const int64_t sample =
                                    offset / image * sizes.inner + offset % image;
                                f(Column<T>{sample, classes, stride, weights, lanes}, slices);
                              });
  }
  const bool past = past_cache<T>(arrays.count(), sizes.outer * classes);
  const bool cached = past && classes * static_cast<int64_t>(sizeof(T)) <= kScratch;
  const int64_t size = RowExp<T>::statistics_size(classes);
  for_each_row<T>(
      sizes.outer, classes, size + (cached ? 2 * classes : 0), [=](int64_t r, T* scratch) {
        const Slices<T> to = arrays.at(r * classes);
        Slices<T> slices = to;
        for (int k = 0; k < 2; ++k) {
          if (cached && to.out[k]) slices.out[k] = scratch + size + k * classes;
        }
        f(Row<T>{r, classes, weights, scratch}, slices);
        for (int k = 0; k < 2; ++k) {
          if (!cached || !to.out[k]) continue;
          write(to.out[k], classes, past, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
            return load(slices.out[k] + i, lanes);
          });
        }
      });
}

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
  for_each_slice<T>(sizes, weight, {{x}, {}}, [=](const auto& slice, Slices<T> arrays) {
    const T* x = arrays.in[0];
    T maxima[Vec<T>::lanes], log_sums[Vec<T>::lanes], smooth[Vec<T>::lanes];
    if (all_ignored<T>(slice, target, ignore_index)) {
      for (int lane = 0; lane < slice.samples; ++lane) loss[slice.sample + lane] = 0;
      return;
    }
    const LogSum<T> sums = slice.log_sum(nullptr, x);
    store(maxima, sums.max);
    store(log_sums, sums.log_sum);
    if (q.each > 0) {
      const Vec<T> each = broadcast(static_cast<T>(q.each));
      store(smooth, slice.sum([&](int64_t i, int lanes, Vec<T> w) FASTDL_INLINE_LAMBDA {
        return w * each * ((load(x + i, lanes) - sums.max) - sums.log_sum);
      }));
    }
    for (int lane = 0; lane < slice.samples; ++lane) {
      const int64_t t = target[slice.sample + lane];
      double value = 0;
      if (t != ignore_index) {
        const T log_p = (x[slice.element(t, lane)] - maxima[lane]) - log_sums[lane];
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
  for_each_slice<T>(sizes, weight, {{x}, {dx}}, [=](const auto& slice, Slices<T> arrays) {
    T* dx = arrays.out[0];
    // Of each sample: the factors of exp(x - m), of the smoothed weights and at the target.
    T scale[Vec<T>::lanes], smooth[Vec<T>::lanes], at_target[Vec<T>::lanes], sum[Vec<T>::lanes];
    const LogSum<T> sums = slice.log_sum(dx, arrays.in[0]);
    store(sum, sums.sum);
    for (int lane = 0; lane < slice.samples; ++lane) {
      const int64_t s = slice.sample + lane, t = target[s];
      scale[lane] = 0 / sum[lane];
      smooth[lane] = at_target[lane] = 0;
      if (t == ignore_index) continue;
      const double d = static_cast<double>(dloss[s * step]);
      const double w =
          q.target > 0 ? q.target * (weight ? static_cast<double>(weight[t]) : 1.0) : 0;
      scale[lane] = static_cast<T>(d * (w + each_total) / static_cast<double>(sum[lane]));
      smooth[lane] = static_cast<T>(d * q.each);
      at_target[lane] = static_cast<T>(d * w);
    }
    const Vec<T> scales = slice.from_samples(scale), smooths = slice.from_samples(smooth);
    if (q.each > 0) {
      slice.for_each([=](int64_t i, int lanes, Vec<T> w, int64_t block) FASTDL_INLINE_LAMBDA {
        const Vec<T> e = load(dx + i, lanes) * sums.factor(block);
        store(dx + i, fnma(smooths, w, e * scales), lanes);
      });
    } else {
      slice.for_each([=](int64_t i, int lanes, Vec<T>, int64_t block) FASTDL_INLINE_LAMBDA {
        store(dx + i, load(dx + i, lanes) * (sums.factor(block) * scales), lanes);
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
  for_each_slice<T>(sizes, weight, {{x, target}, {}}, [=](const auto& slice, Slices<T> arrays) {
    const T *x = arrays.in[0], *target = arrays.in[1];
    const LogSum<T> sums = slice.log_sum(nullptr, x);
    const Vec<T> sum = slice.sum([&](int64_t i, int lanes, Vec<T> w) FASTDL_INLINE_LAMBDA {
      const Vec<T> log_p = (load(x + i, lanes) - sums.max) - sums.log_sum;
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
  const Slices<T> all = {{x, target}, {dx, dtarget}};
  for_each_slice<T>(sizes, weight, all, [=](const auto& slice, Slices<T> arrays) {
    const T *x = arrays.in[0], *target = arrays.in[1];
    T *dx = arrays.out[0], *dtarget = arrays.out[1];
    const LogSum<T> sums = slice.log_sum(dx, x);
    const Vec<T> d = step ? slice.from_samples(dloss + slice.sample) : broadcast(dloss[0]);
    if (dx) {
      const auto share = [=](int64_t i, int lanes, Vec<T> w) FASTDL_INLINE_LAMBDA {
        return w * fma(kept, load(target + i, lanes), each);
      };
      const Vec<T> scale = d * slice.sum(share) / sums.sum;
      slice.for_each([=](int64_t i, int lanes, Vec<T> w, int64_t block) FASTDL_INLINE_LAMBDA {
        const Vec<T> e = load(dx + i, lanes) * sums.factor(block);
        store(dx + i, fnma(share(i, lanes, w), d, e * scale), lanes);
      });
    }
    if (dtarget) {
      slice.for_each([=](int64_t i, int lanes, Vec<T> w, int64_t) FASTDL_INLINE_LAMBDA {
        const Vec<T> log_p = (load(x + i, lanes) - sums.max) - sums.log_sum;
        store(dtarget + i, -(kept * w * d) * log_p, lanes);
      });
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(CrossEntropyKernels, cross_entropy_kernels, index_forward<T>,
                      index_backward<T>, probability_forward<T>, probability_backward<T>)

}  // namespace fastdl::FASTDL_ISA
