// avg_pool2d with small windows (pool_taps.h): sums along rows, then over rows, times the inverse
// of each window's divisor; backward gathers dy times that inverse.
#include "kernels/avg_pool2d.h"
#include "kernels/pool_divisors.h"
#include "kernels/pool_taps.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <int N, typename T>
FASTDL_INLINE Vec<T> sum_of(const Vec<T>* v) {
  Vec<T> sum = v[0];
#pragma GCC unroll 4
  for (int i = 1; i < N; ++i) sum += v[i];
  return sum;
}

template <int K, int S, int P, typename T>
void forward_window(T* y, const T* x, int64_t planes, const PoolWindows& windows,
                    AvgPoolDivisor divisor) {
  const InverseTable<T> table(windows, divisor);
  const T* const* inverses = table.rows();
  const int64_t width = windows.columns.output;
  const PoolBands bands = small_bands(planes, windows);
  const int64_t ahead = S * bands.rows_per_band * windows.columns.size;  // in the next band
  for_each_pool_band<T>(bands, 0, [&](T*, int64_t plane, int64_t begin, int64_t end) {
    const T* from = x + plane * windows.plane();
    T* to = y + plane * windows.output();
    walk_down<K, S, P, T>(
        windows, begin, end, zero<T>(),
        [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
          Vec<T> taps[K];
          strip.read(taps, from + r * windows.columns.size, T(0));
          strip.prefetch(from + r * windows.columns.size + ahead);
          return sum_of<K>(taps);
        },
        [=](int64_t row, const auto& strip, int lanes, const Vec<T>* under) FASTDL_INLINE_LAMBDA {
          const Vec<T> inverse = load(inverses[row] + strip.column, lanes);
          store(to + row * width + strip.column, sum_of<K>(under) * inverse, lanes);
        });
  });
}

template <int K, int S, int P, typename T>
void backward_window(T* dx, const T* dy, int64_t planes, const PoolWindows& windows,
                     AvgPoolDivisor divisor) {
  using Gradient = PoolGradient<K, S, P>;
  constexpr int kSpan = Gradient::kSpan;
  struct Shares {
    Vec<T> of[kSpan];
  };
  const InverseTable<T> table(windows, divisor);
  const T* const* inverses = table.rows();
  const HeightWidth size{windows.rows.size, windows.columns.size};
  const PoolWindows blocks = Gradient::windows(windows);
  const PoolBands bands = Gradient::bands(planes, windows);
  const int64_t width = windows.columns.output;
  const int64_t ahead = bands.rows_per_band * width;  // in the next band
  for_each_pool_band<T>(bands, 0, [&](T*, int64_t plane, int64_t begin, int64_t end) {
    const T* from = dy + plane * windows.output();
    T* to = dx + plane * windows.plane();
    walk_down<kSpan, 1, -Gradient::kFirst, T>(
        blocks, begin, end, Shares{},
        [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
          Shares shares;
          Vec<T> inverse[kSpan];
          strip.read(shares.of, from + r * width, T(0));
          strip.prefetch(from + r * width + ahead);
          strip.read(inverse, inverses[r], T(0));
          for (int j = 0; j < kSpan; ++j) shares.of[j] = shares.of[j] * inverse[j];
          return shares;
        },
        [=](int64_t row, const auto& strip, int lanes, const Shares* over) FASTDL_INLINE_LAMBDA {
          Vec<T> sum[S][S];
          Gradient::add_up(sum, [&](int, int r, int column, Vec<T> so_far)
                                    FASTDL_INLINE_LAMBDA { return so_far + over[r].of[column]; });
          Gradient::write(to, size, S * row, S * strip.column, lanes, sum);
        });
  });
}

template <typename T>
void forward(T* y, const T* x, int64_t planes, const PoolWindows& windows, AvgPoolDivisor divisor) {
  with_window(windows.rows, [&]<int K, int S, int P>() {
    forward_window<K, S, P>(y, x, planes, windows, divisor);
  });
}

template <typename T>
void backward(T* dx, const T* dy, int64_t planes, const PoolWindows& windows,
              AvgPoolDivisor divisor) {
  with_window(windows.rows, [&]<int K, int S, int P>() {
    backward_window<K, S, P>(dx, dy, planes, windows, divisor);
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(AvgPool2dTapsKernels, avg_pool2d_taps_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
