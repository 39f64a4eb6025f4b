// The two limits of a machine: multiply-adds from registers, and a stream from and to memory.
#include "kernels/peaks.h"

#include "core/parallel.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {
namespace {

// Latency 4 x 2 units need 8 independent chains; 12 fit the registers of every ISA.
constexpr int kChains = 12;

template <typename T>
double fma_loop(int64_t steps, T* sink) {
  Vec<T> sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = broadcast(static_cast<T>(i));
  const Vec<T> x = broadcast(static_cast<T>(0.999)), y = broadcast(static_cast<T>(1e-3));
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], x, y);
  }
  Vec<T> total = sums[0];
  for (int i = 1; i < kChains; ++i) total += sums[i];
  *sink = reduce_add(total);  // a result that is used is not optimised away
  return 2.0 * static_cast<double>(steps) * kChains * Vec<T>::lanes;
}

template <typename T>
void triad(T* a, const T* b, const T* c, int64_t n) {
  parallel_ranges(n, 1 << 18, [=](int64_t begin, int64_t end) {
    const Vec<T> three = broadcast(T(3));
    for (int64_t i = begin; i < end; i += Vec<T>::lanes) {
      stream(a + i, fma(three, load(c + i), load(b + i)));
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(PeaksKernels, peaks_kernels, fma_loop<T>, triad<T>)

}  // namespace fastdl::FASTDL_ISA
