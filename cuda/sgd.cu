// SGD, with or without momentum: the formula of csrc/kernels/sgd.cpp, all tensors in one launch
// (tensor_list.h). Bound by memory.
#include "cuda/sgd.h"

#include "cuda/tensor_list.h"

namespace fastdl::cuda {
namespace {

// Arrays: param, grad and, with momentum, its buffer.
template <typename C, int A>
struct SgdStep {
  using Scalars = uint8_t;  // whether it is the first step
  SgdFactors<C> f;
  DeviceNumber lr;
  GradScaling scaling;

  __device__ static bool reads(int) { return true; }
  __device__ bool writes(int array) const { return array != 1 || scaling.scale; }
  __device__ void operator()(C (&x)[A], Scalars first) const {
    if (found_inf(scaling)) return;
    if (scaling.scale) x[1] /= static_cast<C>(*scaling.scale);
    C g = f.grad_sign * x[1];
    if (f.weight_decay != 0) g += f.weight_decay * x[0];
    if constexpr (A == 3) {
      x[2] = first ? g : f.one_minus_dampening * g + f.momentum * x[2];
      g = f.nesterov ? f.momentum * x[2] + g : x[2];
    }
    x[0] -= static_cast<C>(get(lr)) * g;
  }
};

template <typename C>
SgdFactors<C> rounded(const SgdFactors<double>& f) {
  const auto cast = [](double value) { return static_cast<C>(value); };
  return {.grad_sign = cast(f.grad_sign),
          .lr = cast(f.lr),
          .weight_decay = cast(f.weight_decay),
          .momentum = cast(f.momentum),
          .one_minus_dampening = cast(f.one_minus_dampening),
          .nesterov = f.nesterov};
}

}  // namespace

void Sgd::sgd_step(const TensorList& params, const TensorList& grads,
                   const TensorList* momentum_buffers, const std::vector<uint8_t>& first,
                   const SgdFactors<double>& factors, const DeviceNumber& lr,
                   const GradScaling& scaling) const {
  const auto run = [&]<int A>(const TensorList* const(&lists)[A]) {
    run_list<float>(device, SgdStep<float, A>{rounded<float>(factors), lr, scaling}, lists, first);
    run_list<double>(device, SgdStep<double, A>{rounded<double>(factors), lr, scaling}, lists,
                     first);
  };
  if (momentum_buffers) {
    run({&params, &grads, momentum_buffers});
  } else {
    run({&params, &grads});
  }
}

}  // namespace fastdl::cuda
