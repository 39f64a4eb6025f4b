// loss_s = -weight[t_s] * x[s, t_s], 0 for an ignored sample; and back: dx is zero but at t_s.
//
// A gather, of 32 bytes a sample at least; back, dx is written once and then one element a sample.
#include "cuda/nll_loss.h"

#include "cuda/class_loss.h"

namespace fastdl::cuda {
namespace {

template <typename T>
struct Gather {
  Losses<T> losses;
  const T* x;
  Targets<T> targets;

  __device__ void operator()(int64_t s) const {
    const int64_t t = targets.target[s];
    Compute<T> loss = 0;
    if (t != targets.ignore_index) {
      loss = targets.is_class(t) ? -targets.class_weight(t) * widen(x[targets.element(s, t)])
                                 : not_a_number<Compute<T>>();
    }
    losses.store(s, loss);
  }
};

template <typename T>
struct Scatter {
  T* dx;
  LossGradient<T> dloss;
  Targets<T> targets;

  __device__ void operator()(int64_t s) const {
    const int64_t t = targets.target[s];
    if (t == targets.ignore_index || !targets.is_class(t)) return;
    dx[targets.element(s, t)] = narrow<T>(-targets.class_weight(t) * dloss(s));
  }
};

}  // namespace

void NllLoss::forward(const Tensor& loss, const Tensor& x, const Tensor& target,
                      const Tensor* weight, ClassSizes sizes, int64_t ignore_index,
                      Reduction reduction) const {
  dispatch(x.dtype, [&]<typename T>() {
    const Targets<T> targets(target, weight, sizes, ignore_index);
    reduce_losses<T>(device, loss, reduction, targets, [&](Losses<T> losses) {
      for_each_sample(device, Gather<T>{losses, x.ptr<T>(), targets}, targets.samples());
    });
  });
}

void NllLoss::backward(const Tensor& dx, const Tensor& dy, const Tensor& target,
                       const Tensor* weight, ClassSizes sizes, int64_t ignore_index,
                       Reduction reduction) const {
  dispatch(dx.dtype, [&]<typename T>() {
    const Targets<T> targets(target, weight, sizes, ignore_index);
    map(device, dx.ptr<T>(), dx.numel(), Zero<Compute<T>>());
    with_loss_gradient<T>(device, dy, reduction, targets, [&](LossGradient<T> dloss) {
      for_each_sample(device, Scatter<T>{dx.ptr<T>(), dloss, targets}, targets.samples());
    });
  });
}

}  // namespace fastdl::cuda
