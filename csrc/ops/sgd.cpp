#include "ops/sgd.h"

#include "core/device.h"
#include "core/trace.h"
#include "cuda/sgd.h"
#include "kernels/sgd.h"
#include "ops/tensor_list.h"

namespace fastdl::ops {
namespace {

constexpr const char* kOp = "sgd_step";

void check_options(const SgdOptions& o, bool has_buffers) {
  check_not_negative(kOp, "lr", o.lr);
  check_not_negative(kOp, "momentum", o.momentum);
  check_not_negative(kOp, "weight_decay", o.weight_decay);
  check(!o.nesterov || (o.momentum > 0 && o.dampening == 0), kOp,
        "nesterov needs a momentum and no dampening, got momentum ", o.momentum, " and dampening ",
        o.dampening);
  check(o.momentum == 0 || has_buffers, kOp, "momentum ", o.momentum, " needs momentum_buffers");
}

template <typename T>
SgdFactors<T> factors(const SgdOptions& o) {
  const auto cast = [](double value) { return static_cast<T>(value); };
  return {.grad_sign = cast(o.maximize ? -1 : 1),
          .lr = cast(o.lr),
          .weight_decay = cast(o.weight_decay),
          .momentum = cast(o.momentum),
          .one_minus_dampening = cast(1 - o.dampening),
          .nesterov = o.nesterov};
}

}  // namespace

void sgd_step(const TensorList& params, const TensorList& grads, const TensorList* momentum_buffers,
              const Steps& steps, const SgdOptions& options, const DeviceScalars& scalars) {
  check_options(options, momentum_buffers != nullptr);
  const std::vector<int64_t> counts = steps_of_each(kOp, steps, params);
  check_matches_params(kOp, "grads", grads, params);
  if (momentum_buffers) check_matches_params(kOp, "momentum_buffers", *momentum_buffers, params);

  const bool has_momentum = options.momentum != 0;
  trace("all parameters in common blocks",
        (has_momentum ? 7.0 : 4.0) * static_cast<double>(total_numel(params)),
        (has_momentum ? 5 : 3) * static_cast<double>(total_bytes(params)));
  if (on_device([&](const Device& device) {
        std::vector<uint8_t> first;
        for (const int64_t count : counts) first.push_back(count == 1);
        cuda::Sgd{device}.sgd_step(params, grads, has_momentum ? momentum_buffers : nullptr, first,
                                   factors<double>(options), {options.lr, scalars.lr},
                                   {scalars.found_inf, scalars.grad_scale});
      })) {
    return;
  }
  const auto step = [&]<typename T>() {
    const auto items = items_of<T>(params, [&](size_t i) {
      return SgdItem<T>{
          .param = params[i]->ptr<T>(),
          .grad = grads[i]->ptr<T>(),
          .momentum_buffer = has_momentum ? (*momentum_buffers)[i]->ptr<T>() : nullptr,
          .first = counts[i] == 1,
          .start = 0,
          .size = 0};
    });
    sgd_kernels<T>().sgd_step(items.data(), static_cast<int64_t>(items.size()),
                              factors<T>(options));
  };
  step.template operator()<float>();
  step.template operator()<double>();
}

}  // namespace fastdl::ops
