// Adam and AdamW, with or without AMSGrad: the formula of csrc/kernels/adam.cpp.
//
// Every array is read and written once, those of all tensors in one launch (tensor_list.h): 28
// bytes an element of float32, which bind it.
#include "cuda/adam.h"

#include "cuda/tensor_list.h"

namespace fastdl::cuda {
namespace {

// Arrays: param, grad, exp_avg, exp_avg_sq and, with AMSGrad, its maximum.
template <typename C, int A>
struct AdamStep {
  __device__ static bool reads(int) { return true; }
  __device__ static bool writes(int array) { return array != 1; }
  struct Scalars {
    C step_size, inverse_root_correction;
  };
  AdamFactors<C> f;

  __device__ void operator()(C (&x)[A], const Scalars& scalars) const {
    const C g = f.grad_sign * x[1] + f.coupled_decay * (f.coupled_decay != 0 ? x[0] : C{0});
    const C m = f.one_minus_beta1 * g + f.beta1 * x[2];
    C v = f.one_minus_beta2 * g * g + f.beta2 * x[3];
    x[2] = m;
    x[3] = v;
    if constexpr (A == 5) {  // NaN if either is: a step that has seen NaN must not forget it
      v = x[4] != x[4] || x[4] > v ? x[4] : v;
      x[4] = v;
    }
    const C denominator = sqrt(v) * scalars.inverse_root_correction + f.eps;
    x[0] = f.shrink * x[0] - scalars.step_size * (m / denominator);
  }
};

template <typename C>
AdamFactors<C> rounded(const AdamFactors<double>& f) {
  const auto cast = [](double value) { return static_cast<C>(value); };
  return {.grad_sign = cast(f.grad_sign),
          .coupled_decay = cast(f.coupled_decay),
          .shrink = cast(f.shrink),
          .beta1 = cast(f.beta1),
          .one_minus_beta1 = cast(f.one_minus_beta1),
          .beta2 = cast(f.beta2),
          .one_minus_beta2 = cast(f.one_minus_beta2),
          .eps = cast(f.eps)};
}

template <typename C, int A>
void step(const Device& device, const TensorList* const (&lists)[A],
          const std::vector<AdamScalars>& scalars, const AdamFactors<double>& factors) {
  using Step = AdamStep<C, A>;
  std::vector<typename Step::Scalars> of_each;
  for (const AdamScalars& s : scalars) {
    of_each.push_back({static_cast<C>(s.step_size), static_cast<C>(s.inverse_root_correction)});
  }
  run_list<C>(device, Step{rounded<C>(factors)}, lists, of_each);
}

}  // namespace

void Adam::adam_step(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                     const TensorList& exp_avg_sqs, const TensorList* max_exp_avg_sqs,
                     const std::vector<AdamScalars>& scalars,
                     const AdamFactors<double>& factors) const {
  const auto both = [&](const auto& lists) {
    step<float>(device, lists, scalars, factors);
    step<double>(device, lists, scalars, factors);
  };
  if (max_exp_avg_sqs) {
    const TensorList* const lists[] = {&params, &grads, &exp_avgs, &exp_avg_sqs, max_exp_avg_sqs};
    both(lists);
  } else {
    const TensorList* const lists[] = {&params, &grads, &exp_avgs, &exp_avg_sqs};
    both(lists);
  }
}

}  // namespace fastdl::cuda
