#include "ops/peaks.h"

#include <chrono>
#include <vector>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/peaks.h"
#include "kernels/peaks_tiles.h"

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

// flops() does some on one core and says how many.
template <typename Flops>
double flops_per_second(Flops&& flops) {
  const int threads = get_num_threads();
  std::vector<double> done(static_cast<size_t>(threads) * 8);  // a cache line each
  const double seconds = best_seconds(
      [&] { parallel_for(threads, [&](int64_t thread) { done[thread * 8] = flops(); }); });
  return done[0] * threads / seconds;
}

template <typename T>
double multiply_adds_per_second() {
  return flops_per_second([] {
    T sink;
    return peaks_kernels<T>().fma_loop(kSteps, &sink);
  });
}

// Of the numbers of a dtype: on tiles where there are some.
double products_per_second(DType dtype) {
  const auto tiles_or_floats = []<typename E>() {
    const PeaksTilesKernels<E>* const tiles = peaks_tiles_kernels<E>();
    return tiles ? flops_per_second([=] { return tiles->product_loop(kSteps); })
                 : multiply_adds_per_second<float>();
  };
  switch (dtype) {
    case DType::float64:
      return multiply_adds_per_second<double>();
    case DType::bfloat16:
      return tiles_or_floats.operator()<bfloat16>();
    case DType::float16:
      return tiles_or_floats.operator()<float16>();
    default:
      return tiles_or_floats.operator()<float>();
  }
}

template <typename T>
double bytes_per_second() {
  const int64_t n = kStreamBytes / static_cast<int64_t>(sizeof(T));
  const Workspace<T> a(n), b(n), c(n);
  std::fill_n(b.data(), n, T(1));
  std::fill_n(c.data(), n, T(2));
  return 3.0 * kStreamBytes /
         best_seconds([&] { peaks_kernels<T>().triad(a.data(), b.data(), c.data(), n); });
}

}  // namespace

Peaks measure_peaks(DType dtype) {
  return {products_per_second(dtype),
          dispatch_float(dtype, []<typename T>() { return bytes_per_second<T>(); })};
}

}  // namespace fastdl::ops
