// Adam and AdamW, with or without AMSGrad: the formula of csrc/kernels/adam.cpp.
//
// Every array is read and written once, those of all tensors in one launch (tensor_list.h): 28
// bytes an element of float32, which bind it.
#include "cuda/adam.h"

#include <cmath>

#include "cuda/tensor_list.h"

namespace fastdl::cuda {
namespace {

// A tensor's numbers, as the host has computed them, or where count() has put them.
template <typename C>
struct KnownNumbers {
  C step_size, inverse_root_correction, shrink;
  __device__ const KnownNumbers& get() const { return *this; }
};
template <typename C>
__host__ __device__ KnownNumbers<C> rounded(const AdamNumbers& n) {
  return {static_cast<C>(n.step_size), static_cast<C>(n.inverse_root_correction),
          static_cast<C>(n.shrink)};
}
template <typename C>
struct CountedNumbers {
  const AdamNumbers* at;
  __device__ KnownNumbers<C> get() const { return rounded<C>(*at); }
};

// Arrays: param, grad, exp_avg, exp_avg_sq and, with AMSGrad, its maximum.
template <typename C, int A, typename Numbers>
struct AdamStep {
  using Scalars = Numbers;
  AdamFactors<C> f;
  GradScaling scaling;

  __device__ static bool reads(int) { return true; }
  __device__ bool writes(int array) const { return array != 1 || scaling.scale; }
  __device__ void operator()(C (&x)[A], const Numbers& scalars) const {
    if (found_inf(scaling)) return;
    if (scaling.scale) x[1] /= static_cast<C>(*scaling.scale);
    const KnownNumbers<C> numbers = scalars.get();
    const C g = f.grad_sign * x[1] + f.coupled_decay * (f.coupled_decay != 0 ? x[0] : C{0});
    const C m = f.one_minus_beta1 * g + f.beta1 * x[2];
    C v = f.one_minus_beta2 * g * g + f.beta2 * x[3];
    x[2] = m;
    x[3] = v;
    if constexpr (A == 5) {  // NaN if either is: a step that has seen NaN must not forget it
      v = x[4] != x[4] || x[4] > v ? x[4] : v;
      x[4] = v;
    }
    const C denominator = sqrt(v) * numbers.inverse_root_correction + f.eps;
    x[0] = numbers.shrink * x[0] - numbers.step_size * (m / denominator);
  }
};

// One array of one element: a tensor's count of steps.
template <typename C>
struct AdamCount {
  using Scalars = AdamNumbers*;
  DeviceNumber lr;
  double log_beta1, log_beta2, decoupled_decay;
  GradScaling scaling;

  __device__ static bool reads(int) { return true; }
  __device__ static bool writes(int) { return true; }
  __device__ void operator()(C (&count)[1], Scalars numbers) const {
    if (found_inf(scaling)) return;
    count[0] += 1;
    const double t = count[0], rate = get(lr);
    const auto correction = [&](double log_beta) { return -expm1(t * log_beta); };  // 1 - beta^t
    *numbers = {rate / correction(log_beta1), 1 / sqrt(correction(log_beta2)),
                1 - rate * decoupled_decay};
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

template <typename C, typename Numbers>
void step(const Device& device, const AdamLists& lists, const AdamFactors<double>& factors,
          const GradScaling& scaling, const std::vector<Numbers>& numbers) {
  const auto run = [&]<int A>(const TensorList* const(&arrays)[A]) {
    run_list<C>(device, AdamStep<C, A, Numbers>{rounded<C>(factors), scaling}, arrays, numbers);
  };
  const auto& [params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs] = lists;
  if (max_exp_avg_sqs) {
    run({params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs});
  } else {
    run({params, grads, exp_avgs, exp_avg_sqs});
  }
}

}  // namespace

void Adam::adam_step(const AdamLists& lists, const std::vector<AdamNumbers>& numbers,
                     const AdamFactors<double>& factors) const {
  const auto run = [&]<typename C>() {
    std::vector<KnownNumbers<C>> known;
    for (const AdamNumbers& n : numbers) known.push_back(rounded<C>(n));
    step<C>(device, lists, factors, {nullptr, nullptr}, known);
  };
  run.template operator()<float>();
  run.template operator()<double>();
}

void Adam::counted_step(const AdamLists& lists, const TensorList& counts, const DeviceNumber& lr,
                        double decoupled_decay, const GradScaling& scaling,
                        const AdamFactors<double>& factors) const {
  const Workspace<AdamNumbers> numbers(static_cast<int64_t>(counts.size()));
  std::vector<AdamNumbers*> places;
  for (size_t i = 0; i < counts.size(); ++i) places.push_back(numbers.data() + i);
  const auto count = [&]<typename C>() {
    const AdamCount<C> step{lr, std::log(factors.beta1), std::log(factors.beta2), decoupled_decay,
                            scaling};
    run_list<C>(device, step, {&counts}, places);
  };
  count.template operator()<float>();
  count.template operator()<double>();
  const auto run = [&]<typename C>() {
    step<C>(device, lists, factors, scaling,
            std::vector<CountedNumbers<C>>(places.begin(), places.end()));
  };
  run.template operator()<float>();
  run.template operator()<double>();
}

}  // namespace fastdl::cuda
