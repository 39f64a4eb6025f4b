#include "ops/adam.h"

#include <cmath>

#include "core/device.h"
#include "core/trace.h"
#include "cuda/adam.h"
#include "kernels/adam.h"
#include "ops/tensor_list.h"

namespace fastdl::ops {
namespace {

constexpr const char* kOp = "adam_step";

void check_options(const AdamOptions& o) {
  check_not_negative(kOp, "lr", o.lr);
  check(0 <= o.beta1 && o.beta1 < 1, kOp, "beta1 must be in [0, 1), got ", o.beta1);
  check(0 <= o.beta2 && o.beta2 < 1, kOp, "beta2 must be in [0, 1), got ", o.beta2);
  check_not_negative(kOp, "eps", o.eps);
  check_not_negative(kOp, "weight_decay", o.weight_decay);
}

template <typename T>
AdamFactors<T> factors(const AdamOptions& o) {
  const auto cast = [](double value) { return static_cast<T>(value); };
  return {.grad_sign = cast(o.maximize ? -1 : 1),
          .coupled_decay = cast(o.decoupled ? 0 : o.weight_decay),
          .shrink = cast(o.decoupled ? 1 - o.lr * o.weight_decay : 1),
          .beta1 = cast(o.beta1),
          .one_minus_beta1 = cast(1 - o.beta1),
          .beta2 = cast(o.beta2),
          .one_minus_beta2 = cast(1 - o.beta2),
          .eps = cast(o.eps)};
}

}  // namespace

void adam_step(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
               const TensorList& exp_avg_sqs, const TensorList* max_exp_avg_sqs, const Steps& steps,
               const AdamOptions& options, const DeviceScalars& scalars) {
  check_options(options);
  const std::vector<int64_t> counts = steps_of_each(kOp, steps, params);
  check_matches_params(kOp, "grads", grads, params);
  check_matches_params(kOp, "exp_avgs", exp_avgs, params);
  check_matches_params(kOp, "exp_avg_sqs", exp_avg_sqs, params);
  if (max_exp_avg_sqs) check_matches_params(kOp, "max_exp_avg_sqs", *max_exp_avg_sqs, params);

  const int arrays = max_exp_avg_sqs ? 9 : 7;  // read or written
  trace("all parameters in common blocks", 14.0 * static_cast<double>(total_numel(params)),
        arrays * static_cast<double>(total_bytes(params)));
  const auto step_size = [&](size_t i) {
    return options.lr / (1 - std::pow(options.beta1, static_cast<double>(counts[i])));
  };
  const auto inverse_root_correction = [&](size_t i) {
    return 1 / std::sqrt(1 - std::pow(options.beta2, static_cast<double>(counts[i])));
  };
  if (on_device([&](const Device& device) {
        const cuda::Adam adam{device};
        const cuda::AdamLists lists{&params, &grads, &exp_avgs, &exp_avg_sqs, max_exp_avg_sqs};
        const AdamFactors<double> f = factors<double>(options);
        if (scalars.counts) {
          const double decay = options.decoupled ? options.weight_decay : 0;
          return adam.counted_step(lists, *scalars.counts, {options.lr, scalars.lr}, decay,
                                   {scalars.found_inf, scalars.grad_scale}, f);
        }
        std::vector<cuda::AdamNumbers> numbers;
        for (size_t i = 0; i < params.size(); ++i) {
          numbers.push_back({step_size(i), inverse_root_correction(i), f.shrink});
        }
        adam.adam_step(lists, numbers, f);
      })) {
    return;
  }
  const auto step = [&]<typename T>() {
    const auto items = items_of<T>(params, [&](size_t i) {
      return AdamItem<T>{
          .param = params[i]->ptr<T>(),
          .grad = grads[i]->ptr<T>(),
          .exp_avg = exp_avgs[i]->ptr<T>(),
          .exp_avg_sq = exp_avg_sqs[i]->ptr<T>(),
          .max_exp_avg_sq = max_exp_avg_sqs ? (*max_exp_avg_sqs)[i]->ptr<T>() : nullptr,
          .step_size = static_cast<T>(step_size(i)),
          .inverse_root_correction = static_cast<T>(inverse_root_correction(i)),
          .start = 0,
          .size = 0};
    });
    adam_kernels<T>().adam_step(items.data(), static_cast<int64_t>(items.size()),
                                factors<T>(options));
  };
  step.template operator()<float>();
  step.template operator()<double>();
}

}  // namespace fastdl::ops
