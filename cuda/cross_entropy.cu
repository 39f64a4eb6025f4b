// loss = -sum_c weight_c * q_c * log p_c,  log p_c = (x_c - m) - log sum_j exp(x_j - m),
// q = (1 - s) * target + s / C, where a class index t means target = 1 at t and 0 elsewhere.
//
// Backward, with dloss the gradient of the loss: dx_c = dloss * (p_c * sum_j weight_j q_j -
// weight_c q_c),  dtarget_c = -dloss * (1 - s) * weight_c * log p_c.
//
// Bound by memory: forward x is read once, with the sum of exp(x - m) goes that of
// weight * q * (x - m), scaled anew whenever the maximum m grows; backward makes the sums again,
// and reads x once more where a row does not fit the registers. No p is stored.
#include "cuda/cross_entropy.h"

#include "cuda/class_loss.h"
#include "cuda/online_sum.h"

namespace fastdl::cuda {
namespace {

// The sum of exp(x - max), and of shares v and of v * (x - max), where v = weight * q.
template <typename C>
struct ShareSum {
  C max, sum, shares, shifted;
};

template <typename C>
__device__ ShareSum<C> merge(const ShareSum<C>& a, const ShareSum<C>& b) {
  const C max = Max()(a.max, b.max), shift = shift_of(max);
  const C of_a = a.shifted + a.shares * (shift_of(a.max) - shift);
  const C of_b = b.shifted + b.shares * (shift_of(b.max) - shift);
  return {max, a.sum * exp(a.max - shift) + b.sum * exp(b.max - shift), a.shares + b.shares,
          of_a + of_b};
}

// What an op knows of its target. The shares of class indices are those of the label smoothing
// alone: the target's own are gathered.
template <typename T, bool kIndices>
struct Shares {
  static constexpr int kInputs = kIndices ? 1 : 2;  // x, and probabilities
  using C = Compute<T>;
  Targets<T> targets;
  C kept, each;  // shares of the target and of each class in q

  Shares(const Targets<T>& targets, double label_smoothing)
      : targets(targets),
        kept(static_cast<C>(1 - label_smoothing)),
        each(static_cast<C>(label_smoothing / static_cast<double>(targets.sizes.classes))) {}

  // Whether there are any: what enters with a factor 0 does not enter, be it inf.
  __device__ bool exist() const { return !kIndices || each > 0; }
  __device__ C of(const Element<C, kInputs>& e) const {
    if constexpr (kIndices) {
      return targets.class_weight(e.at) * each;
    } else {
      return targets.class_weight(e.at) * (kept * e.in[1] + each);
    }
  }
};

// The sums over a slice, of one sample.
template <typename T, bool kIndices>
struct SampleSums {
  using C = Compute<T>;
  Shares<T, kIndices> shares;
  int64_t sample;

  __device__ ShareSum<C> none() const { return {-infinity(C{}), 0, 0, 0}; }

  template <int N, int I>
  __device__ void add(ShareSum<C>& s, const Element<C, I> (&x)[N], int count) const {
    C max = s.max;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) max = Max()(x[k].in[0], max);
    }
    const C shift = shift_of(max);
    C sum = 0, of_shares = 0, shifted = 0;  // of this chunk: long sums would drift
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k < count) sum += exp(x[k].in[0] - shift);
    }
    s.sum = s.sum * exp(s.max - shift) + sum;
    if (shares.exist()) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (k >= count) continue;
        const C v = shares.of(x[k]);
        of_shares += v;
        shifted += v * (x[k].in[0] - shift);
      }
      s.shifted += s.shares * (shift_of(s.max) - shift) + shifted;
      s.shares += of_shares;
    }
    s.max = max;
  }
};

template <typename T, bool kIndices>
struct Loss {
  Shares<T, kIndices> shares;
  Losses<T> losses;
  const T* x;
};
template <typename T, bool kIndices>
struct SampleLoss : SampleSums<T, kIndices> {
  using C = Compute<T>;
  Losses<T> losses;
  const T* x;

  __device__ void store(const ShareSum<C>& s) const {
    const C log_sum = log(s.sum);
    C loss = this->shares.exist() ? s.shares * log_sum - s.shifted : C{0};
    if constexpr (kIndices) {
      const Targets<T>& targets = this->shares.targets;
      const int64_t t = targets.target[this->sample];
      if (t == targets.ignore_index) {
        loss = 0;
      } else if (!targets.is_class(t)) {
        loss = not_a_number<C>();
      } else if (this->shares.kept > 0) {
        const C log_p = widen(x[targets.element(this->sample, t)]) - s.max - log_sum;
        loss -= this->shares.kept * targets.class_weight(t) * log_p;
      }
    }
    losses.store(this->sample, loss);
  }
};
template <typename T, bool kIndices>
__device__ SampleLoss<T, kIndices> slice_of(const Loss<T, kIndices>& op, int64_t sample) {
  return {{op.shares, sample}, op.losses, op.x};
}

// dx = exp(x - max) * scale - dloss * v, and minus at_target at the target.
template <typename C>
struct GradientTerms {
  C max, scale, dloss, at_target;
};

template <typename T, bool kIndices>
struct Gradient {
  Shares<T, kIndices> shares;
  LossGradient<T> dloss;
};
template <typename T, bool kIndices>
struct SampleGradient : SampleSums<T, kIndices> {
  using C = Compute<T>;
  LossGradient<T> dloss;
  int64_t target;

  __device__ GradientTerms<C> ready(const ShareSum<C>& s) const {
    C d = dloss(this->sample), at_target = 0;
    if constexpr (kIndices) {
      const Targets<T>& targets = this->shares.targets;
      if (target == targets.ignore_index) {
        d = 0;
      } else if (!targets.is_class(target)) {
        d = not_a_number<C>();
      } else if (this->shares.kept > 0) {
        at_target = this->shares.kept * targets.class_weight(target);
      }
    }
    return {s.max, d * (at_target + s.shares) / s.sum, d, d * at_target};
  }
  __device__ C result(const Element<C, Shares<T, kIndices>::kInputs>& e,
                      const GradientTerms<C>& terms) const {
    C dx = exp(e.in[0] - terms.max) * terms.scale;
    if (this->shares.exist()) dx -= terms.dloss * this->shares.of(e);
    if (kIndices && e.at == target) dx -= terms.at_target;
    return dx;
  }
};
template <typename T, bool kIndices>
__device__ SampleGradient<T, kIndices> slice_of(const Gradient<T, kIndices>& op, int64_t sample) {
  const int64_t* const target = op.shares.targets.target;
  return {{op.shares, sample}, op.dloss, kIndices ? target[sample] : -1};
}

template <typename T>
struct TargetGradient {
  Targets<T> targets;
  LossGradient<T> dloss;
  Compute<T> kept;
};
template <typename T>
struct SampleTargetGradient : OnlineForward<Compute<T>> {
  using C = Compute<T>;
  Targets<T> targets;
  C factor;

  __device__ OnlineSum<C> ready(OnlineSum<C> s) const { return {s.max, log(s.sum)}; }
  __device__ C result(const Element<C, 1>& e, OnlineSum<C> s) const {
    return -(factor * targets.class_weight(e.at)) * (e.in[0] - s.max - s.sum);
  }
};
template <typename T>
__device__ SampleTargetGradient<T> slice_of(const TargetGradient<T>& op, int64_t sample) {
  return {{}, op.targets, op.kept * op.dloss(sample)};
}

}  // namespace

template <typename T>
constexpr bool kManyRegisters<Loss<T, false>> = true;
template <typename T>
constexpr bool kManyRegisters<Gradient<T, false>> = true;
template <>
constexpr bool kManyRegisters<Gradient<float, true>> = true;

namespace {

template <bool kIndices, typename T>
Inputs<T, Shares<T, kIndices>::kInputs> inputs(const Tensor& x, const Tensor& target) {
  if constexpr (kIndices) {
    return {{x.ptr<T>()}};
  } else {
    return {{x.ptr<T>(), target.ptr<T>()}};
  }
}

// call.template operator()<kIndices>()
template <typename Call>
void dispatch_target(const Tensor& target, Call&& call) {
  if (target.dtype == DType::int64) {
    call.template operator()<true>();
  } else {
    call.template operator()<false>();
  }
}

}  // namespace

void CrossEntropy::forward(const Tensor& loss, const Tensor& x, const Tensor& target,
                           const Tensor* weight, ClassSizes sizes, int64_t ignore_index,
                           Reduction reduction, double label_smoothing) const {
  dispatch(x.dtype, [&]<typename T>() {
    const Targets<T> targets(target, weight, sizes, ignore_index);
    reduce_losses<T>(device, loss, reduction, targets, [&](Losses<T> losses) {
      if (targets.samples() == 0) return;
      if (sizes.classes == 0) {
        if (losses.each) return map(device, losses.each, targets.samples(), Zero<Compute<T>>());
        return map(device, losses.computed, targets.samples(), Zero<Compute<T>>());
      }
      dispatch_target(target, [&]<bool kIndices>() {
        const Shares<T, kIndices> shares(targets, label_smoothing);
        map_slices(device, Loss<T, kIndices>{shares, losses, x.ptr<T>()}, static_cast<T*>(nullptr),
                   inputs<kIndices, T>(x, target), sizes.outer, sizes.classes, sizes.inner);
      });
    });
  });
}

void CrossEntropy::backward(const Tensor* dx, const Tensor* dtarget, const Tensor& dy,
                            const Tensor& x, const Tensor& target, const Tensor* weight,
                            ClassSizes sizes, int64_t ignore_index, Reduction reduction,
                            double label_smoothing) const {
  dispatch(x.dtype, [&]<typename T>() {
    const Targets<T> targets(target, weight, sizes, ignore_index);
    with_loss_gradient<T>(device, dy, reduction, targets, [&](LossGradient<T> dloss) {
      const auto map_into = [&](const Tensor& out, auto op, auto in) {
        map_slices(device, op, out.ptr<T>(), in, sizes.outer, sizes.classes, sizes.inner);
      };
      if (dx) {
        dispatch_target(target, [&]<bool kIndices>() {
          const Shares<T, kIndices> shares(targets, label_smoothing);
          map_into(*dx, Gradient<T, kIndices>{shares, dloss}, inputs<kIndices, T>(x, target));
        });
      }
      if (dtarget) {
        const auto kept = static_cast<Compute<T>>(1 - label_smoothing);
        map_into(*dtarget, TargetGradient<T>{targets, dloss, kept}, Inputs<T, 1>{{x.ptr<T>()}});
      }
    });
  });
}

}  // namespace fastdl::cuda
