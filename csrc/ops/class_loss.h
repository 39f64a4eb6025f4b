// What nll_loss and cross_entropy share: their shapes, the check of class indices, the reduction.
#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "core/output.h"
#include "core/parallel.h"
#include "kernels/class_sizes.h"

namespace fastdl::ops {

inline Reduction parse_reduction(const char* op, const std::string& reduction) {
  if (reduction == "none") return Reduction::none;
  if (reduction == "mean") return Reduction::mean;
  check(reduction == "sum", op, "reduction must be \"none\", \"mean\" or \"sum\", got \"",
        reduction, '"');
  return Reduction::sum;
}

// x is (C,), (N, C) or (N, C, d1, ...).
inline ClassSizes class_sizes(const char* op, const Tensor& x) {
  check(x.ndim() >= 1, op, "x must have at least 1 dimension, got shape ()");
  if (x.ndim() == 1) return {1, x.shape[0], 1};
  return {x.shape[0], x.shape[1], x.shape.numel(2, x.ndim())};
}

// The shape of x without its classes.
inline Shape sample_shape(const Tensor& x) {
  Shape shape;
  for (int i = 0; i < x.ndim(); ++i) {
    if (i != (x.ndim() == 1 ? 0 : 1)) shape.push_back(x.shape[i]);
  }
  return shape;
}

inline void check_class_weight(const char* op, const Tensor* weight, const Tensor& x,
                               const ClassSizes& sizes) {
  if (!weight) return;
  check_same_dtype(op, "weight", *weight, "x", x);
  check_shape(op, "weight", *weight, Shape{sizes.classes});
}

// Checks the shape of class indices and, where they can be read, their range: on a device the
// kernels make NaN of what is out of it.
inline void check_target(const char* op, const Tensor& target, const Tensor& x,
                         const ClassSizes& sizes, int64_t ignore_index) {
  if (!(x.ndim() == 1 && target.shape == Shape{1})) {  // torch takes (1,) for () too
    check_shape(op, "target", target, sample_shape(x));
  }
  if (running_device) return;
  const int64_t* t = target.ptr<int64_t>();
  parallel_ranges(target.numel(), 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      check(t[s] == ignore_index || (0 <= t[s] && t[s] < sizes.classes), op, "target holds class ",
            t[s], ", expected 0 to ", sizes.classes - 1, " or ignore_index ", ignore_index);
    }
  });
}

// sum of term(i) over begin..end-1: pairwise, as long sums of few different weights would drift,
// and eight at a time, as an addition takes four cycles.
template <typename Term>
double pairwise_sum(int64_t begin, int64_t end, Term&& term) {
  if (end - begin > 512) {
    const int64_t middle = begin + (end - begin) / 16 * 8;
    return pairwise_sum(begin, middle, term) + pairwise_sum(middle, end, term);
  }
  double sums[8] = {};
  int64_t i = begin;
  for (; i + 8 <= end; i += 8) {
    for (int k = 0; k < 8; ++k) sums[k] += term(i + k);
  }
  for (int k = 0; i + k < end; ++k) sums[k] += term(i + k);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// sum of term(i) over 0..n-1, block by block.
template <typename Term>
double parallel_sum(int64_t n, Term&& term) {
  constexpr int64_t kBlock = 1 << 15;
  std::vector<double> partial(static_cast<size_t>(ceil_div(n, kBlock)));
  parallel_ranges(n, kBlock, [&](int64_t begin, int64_t end) {
    partial[static_cast<size_t>(begin / kBlock)] = pairwise_sum(begin, end, term);
  });
  const auto block = [&](int64_t i) { return partial[static_cast<size_t>(i)]; };
  return pairwise_sum(0, static_cast<int64_t>(partial.size()), block);
}

// What "mean" divides by: the weights of the classes of all samples that are not ignored.
template <typename T>
double target_weight(const Tensor& target, const Tensor* weight, int64_t ignore_index) {
  const int64_t* t = target.ptr<int64_t>();
  const T* w = ptr_or_null<T>(weight);
  return parallel_sum(target.numel(), [=](int64_t s) {
    if (t[s] == ignore_index) return 0.0;
    return w ? static_cast<double>(w[t[s]]) : 1.0;
  });
}

inline const Tensor& make_loss(const char* op, Output& loss, const Tensor& x, Reduction reduction) {
  return loss.make(op, reduction == Reduction::none ? sample_shape(x) : Shape{}, x.dtype);
}

// Fills `loss`: losses_of(p) writes the losses of all samples to p; they are returned, added up, or
// divided by what mean_of() returns.
template <typename T, typename Losses, typename Mean>
void reduce_loss(const Tensor& loss, const Tensor& x, Reduction reduction, Losses&& losses_of,
                 Mean&& mean_of) {
  if (reduction == Reduction::none) return losses_of(loss.ptr<T>());
  const int64_t n = sample_shape(x).numel();
  const Workspace<T> losses(n);
  losses_of(losses.data());
  const double sum = parallel_sum(n, [&](int64_t s) { return double{losses.data()[s]}; });
  *loss.ptr<T>() = static_cast<T>(reduction == Reduction::mean ? sum / mean_of() : sum);
}

inline void check_loss_gradient(const char* op, const Tensor& dy, const Tensor& x,
                                Reduction reduction) {
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, reduction == Reduction::none ? sample_shape(x) : Shape{});
}

// The gradients of the samples' losses: dloss[s * step].
template <typename T>
struct LossGradient {
  T one = 0;
  const T* each = nullptr;

  template <typename Mean>
  LossGradient(const Tensor& dy, Reduction reduction, Mean&& mean_of) {
    if (reduction == Reduction::none) {
      each = dy.ptr<T>();
    } else {
      const double sum = static_cast<double>(*dy.ptr<T>());
      one = static_cast<T>(reduction == Reduction::mean ? sum / mean_of() : sum);
    }
  }
  const T* data() const { return each ? each : &one; }
  int64_t step() const { return each ? 1 : 0; }
};

}  // namespace fastdl::ops
