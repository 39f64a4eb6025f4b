// g = sign * grad (+ coupled_decay * param)        param = shrink * param
// m = beta1 * m + (1 - beta1) * g                  v = beta2 * v + (1 - beta2) * g^2
// param = param - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
//
// Every array is read and written once, in one parallel region for all parameters. The formula and
// its AMSGrad variant (the largest v so far in place of v): fastdl/reference/adam.py.
#include "kernels/adam.h"

#include "core/vec.h"
#include "kernels/tensor_list.h"

namespace fastdl::FASTDL_ISA {
namespace {

// NaN if either is: a step that has seen NaN must not forget it.
template <typename T>
FASTDL_INLINE Vec<T> max_or_nan(Vec<T> a, Vec<T> b) {
  return select(is_nan(a), a, max(a, b));
}

template <typename T>
void adam_step(const AdamItem<T>* items, int64_t count, const AdamFactors<T>& f) {
  for_each_piece(items, count, [&](const AdamItem<T>& item, int64_t begin, int64_t end) {
    for_each_vec<T>(end - begin, [&](int64_t offset, int lanes) {
      const int64_t i = begin + offset;
      Vec<T> param = load(item.param + i, lanes);
      Vec<T> g = broadcast(f.grad_sign) * load(item.grad + i, lanes);
      if (f.coupled_decay != 0) g = fma(broadcast(f.coupled_decay), param, g);
      param = broadcast(f.shrink) * param;
      const Vec<T> m =
          fma(broadcast(f.one_minus_beta1), g, broadcast(f.beta1) * load(item.exp_avg + i, lanes));
      Vec<T> v = fma(broadcast(f.one_minus_beta2) * g, g,
                     broadcast(f.beta2) * load(item.exp_avg_sq + i, lanes));
      store(item.exp_avg + i, m, lanes);
      store(item.exp_avg_sq + i, v, lanes);
      if (item.max_exp_avg_sq) {
        v = max_or_nan(load(item.max_exp_avg_sq + i, lanes), v);
        store(item.max_exp_avg_sq + i, v, lanes);
      }
      const Vec<T> denominator =
          fma(sqrt(v), broadcast(item.inverse_root_correction), broadcast(f.eps));
      param = fnma(broadcast(item.step_size), m / denominator, param);
      store(item.param + i, param, lanes);
    });
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AdamKernels, adam_kernels, adam_step<T>)

}  // namespace fastdl::FASTDL_ISA
