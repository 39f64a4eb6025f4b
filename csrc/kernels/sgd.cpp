// g = sign * grad (+ weight_decay * param)
// buffer = g on step 1, momentum * buffer + (1 - dampening) * g later
// param = param - lr * (g + momentum * buffer if nesterov else buffer)
//
// Every array is read and written once, in one parallel region for all parameters.
#include "kernels/sgd.h"

#include "core/vec.h"
#include "kernels/tensor_list.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <typename T>
void sgd_step(const SgdItem<T>* items, int64_t count, const SgdFactors<T>& f) {
  for_each_piece(items, count, [&](const SgdItem<T>& item, int64_t begin, int64_t end) {
    for_each_vec<T>(end - begin, [&](int64_t offset, int lanes) {
      const int64_t i = begin + offset;
      const Vec<T> param = load(item.param + i, lanes), momentum = broadcast(f.momentum);
      Vec<T> g = broadcast(f.grad_sign) * load(item.grad + i, lanes);
      if (f.weight_decay != 0) g = fma(broadcast(f.weight_decay), param, g);
      if (item.momentum_buffer) {
        Vec<T> buffer = g;
        if (!item.first) {
          buffer = fma(broadcast(f.one_minus_dampening), g,
                       momentum * load(item.momentum_buffer + i, lanes));
        }
        store(item.momentum_buffer + i, buffer, lanes);
        g = f.nesterov ? fma(momentum, buffer, g) : buffer;
      }
      store(item.param + i, fnma(broadcast(f.lr), g, param), lanes);
    });
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(SgdKernels, sgd_kernels, sgd_step<T>)

}  // namespace fastdl::FASTDL_ISA
