#include "ops/peaks.h"

#include <chrono>
#include <vector>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/peaks.h"

namespace fastdl::ops {
namespace {

constexpr int kRepeats = 7;
constexpr int64_t kSteps = 1 << 20;                  // some 10 ms
constexpr int64_t kStreamBytes = int64_t{64} << 20;  // an array; beyond the last cache

template <typename Run>
double best_seconds(Run&& run) {
  double best = 1e9;
  for (int i = 0; i < kRepeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count());
  }
  return best;
}

template <typename T>
Peaks measure() {
  const PeaksKernels<T>& kernels = peaks_kernels<T>();
  const int threads = get_num_threads();
  std::vector<double> flops(static_cast<size_t>(threads) * 8);  // a cache line each
  std::vector<T> sinks(static_cast<size_t>(threads) * 16);
  const double fma_seconds = best_seconds([&] {
    parallel_for(threads, [&](int64_t thread) {
      flops[thread * 8] = kernels.fma_loop(kSteps, &sinks[thread * 16]);
    });
  });

  const int64_t n = kStreamBytes / static_cast<int64_t>(sizeof(T));
  const Workspace<T> a(n), b(n), c(n);
  std::fill_n(b.data(), n, T(1));
  std::fill_n(c.data(), n, T(2));
  const double seconds = best_seconds([&] { kernels.triad(a.data(), b.data(), c.data(), n); });
  return {flops[0] * threads / fma_seconds, 3.0 * kStreamBytes / seconds};
}

}  // namespace

Peaks measure_peaks(DType dtype) {
  return dispatch_float(dtype, []<typename T>() { return measure<T>(); });
}

}  // namespace fastdl::ops
