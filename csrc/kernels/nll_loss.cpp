// loss_s = -weight[t_s] * x[s, t_s], 0 for an ignored sample; and back: dx is zero but at t_s.
#include "kernels/nll_loss.h"

#include <string.h>

#include "core/parallel.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kSamples = 1024;   // a block: each is a cache miss
constexpr int64_t kBytes = 1 << 17;  // a block of zeros

// visit(s, element of x, weight) for the samples that are not ignored, skip(s) for the others. One
// division a block: one for each sample would take as long as its cache miss.
template <typename T, typename Visit, typename Skip>
FASTDL_INLINE void for_each_sample(const int64_t* target, const T* weight, ClassSizes sizes,
                                   int64_t ignore_index, Visit&& visit, Skip&& skip) {
  const int64_t step = sizes.inner, image = sizes.classes * step;
  parallel_ranges(sizes.outer * step, kSamples, [&](int64_t begin, int64_t end) {
    int64_t first = begin / step * image, inner = begin % step;
    for (int64_t s = begin; s < end; ++s) {
      const int64_t t = target[s];
      if (t == ignore_index) {
        skip(s);
      } else {
        visit(s, first + t * step + inner, weight ? weight[t] : T(1));
      }
      if (++inner == step) {
        inner = 0;
        first += image;
      }
    }
  });
}

template <typename T>
void forward(T* loss, const T* x, const int64_t* target, const T* weight, ClassSizes sizes,
             int64_t ignore_index) {
  for_each_sample(
      target, weight, sizes, ignore_index,
      [=](int64_t s, int64_t element, T w) { loss[s] = -w * x[element]; },
      [=](int64_t s) { loss[s] = 0; });
}

template <typename T>
void backward(T* dx, const T* dloss, int64_t step, const int64_t* target, const T* weight,
              ClassSizes sizes, int64_t ignore_index) {
  const int64_t bytes = sizes.outer * sizes.classes * sizes.inner * static_cast<int64_t>(sizeof(T));
  parallel_ranges(bytes, kBytes, [=](int64_t begin, int64_t end) {
    memset(reinterpret_cast<char*>(dx) + begin, 0, static_cast<size_t>(end - begin));
  });
  for_each_sample(
      target, weight, sizes, ignore_index,
      [=](int64_t s, int64_t element, T w) { dx[element] = -w * dloss[s * step]; }, [](int64_t) {});
}

}  // namespace

FASTDL_DEFINE_KERNELS(NllLossKernels, nll_loss_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
