// max_pool2d with small windows (pool_taps.h). For the gradient it keeps, instead of positions, the
// code of each window's largest element: row * K + column in the window, a byte. So the gradient
// is a gather: an element gets dy from those of its windows whose code is its tap there.
#include <math.h>

#include "kernels/max_pool2d.h"
#include "kernels/pool_taps.h"
#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

// Codes on their way between bytes and the lanes of T. A function of its own tells the compiler
// that the bytes change neither n nor the pointers.
template <typename To, typename From>
FASTDL_INLINE void convert(To* to, const From* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(static_cast<int32_t>(from[i]));
}

template <int K, int S, int P, typename T>
void forward_values(T* y, const T* x, int64_t planes, const PoolWindows& windows) {
  constexpr T kOutside = static_cast<T>(-INFINITY);
  const auto largest = [](const Vec<T>* from) FASTDL_INLINE_LAMBDA {
    Vec<T> best = from[0];
#pragma GCC unroll 4
    for (int i = 1; i < K; ++i) best = max_or_nan(from[i], best);
    return best;
  };
  const int64_t width = windows.columns.output;
  const PoolBands bands = small_bands(planes, windows);
  const int64_t ahead = S * bands.rows_per_band * windows.columns.size;  // in the next band
  for_each_pool_band<T>(bands, 0, [&](T*, int64_t plane, int64_t begin, int64_t end) {
    const T* from = x + plane * windows.plane();
    T* to = y + plane * windows.output();
    walk_down<K, S, P, T>(
        windows, begin, end, broadcast(kOutside),
        [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
          Vec<T> taps[K];
          strip.read(taps, from + r * windows.columns.size, kOutside);
          strip.prefetch(from + r * windows.columns.size + ahead);
          return largest(taps);
        },
        [=](int64_t row, const auto& strip, int lanes, const Vec<T>* under) FASTDL_INLINE_LAMBDA {
          store(to + row * width + strip.column, largest(under), lanes);
        });
  });
}

template <int K, int S, int P, typename T>
void forward_codes(T* y, uint8_t* codes, const T* x, int64_t planes, const PoolWindows& windows) {
  constexpr T kOutside = static_cast<T>(-INFINITY);
  const int64_t width = windows.columns.output;
  // Of each window of a row, its first column inside: the largest element where all are -inf.
  const Workspace<T> firsts(width + Vec<T>::lanes);
  T* first_columns = firsts.data();
  for (int64_t w = 0; w < width; ++w) {
    first_columns[w] = static_cast<T>(windows.columns.first_tap(w));
  }
  const PoolBands bands = small_bands(planes, windows);
  const int64_t ahead = S * bands.rows_per_band * windows.columns.size;  // in the next band
  for_each_pool_band<T>(
      bands, bands.rows_per_band * width, [&](T* found, int64_t plane, int64_t begin, int64_t end) {
        const T* from = x + plane * windows.plane();
        const int64_t at = plane * windows.output() + begin * width;
        walk_down<K, S, P, T>(
            windows, begin, end, Best<T>{broadcast(kOutside), zero<T>()},
            [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
              Vec<T> taps[K];
              strip.read(taps, from + r * windows.columns.size, kOutside);
              strip.prefetch(from + r * windows.columns.size + ahead);
              Best<T> best{broadcast(kOutside), load(first_columns + strip.column)};
#pragma GCC unroll 4
              for (int j = 0; j < K; ++j) best.meet(taps[j], broadcast(T(j)));
              return best;
            },
            [=](int64_t row, const auto& strip, int lanes, const Best<T>* under)
                FASTDL_INLINE_LAMBDA {
                  const T top = static_cast<T>(K * windows.rows.first_tap(row));
                  Best<T> best{broadcast(kOutside),
                               load(first_columns + strip.column) + broadcast(top)};
#pragma GCC unroll 4
                  for (int i = 0; i < K; ++i) {
                    best.meet(under[i].value, under[i].offset + broadcast(T(i * K)));
                  }
                  const int64_t to = (row - begin) * width + strip.column;
                  store(y + at + to, best.value, lanes);
                  store(found + to, best.offset, lanes);
                });
        convert(codes + at, found, (end - begin) * width);
      });
}

template <int K, int S, int P, typename T>
void backward_codes(T* dx, const T* dy, const uint8_t* codes, int64_t planes,
                    const PoolWindows& windows) {
  using Gradient = PoolGradient<K, S, P>;
  constexpr int kSpan = Gradient::kSpan;
  struct Maxima {
    Vec<T> dy[kSpan], codes[kSpan];
  };
  const HeightWidth size{windows.rows.size, windows.columns.size};
  const PoolWindows blocks = Gradient::windows(windows);
  const PoolBands bands = Gradient::bands(planes, windows);
  const int64_t height = windows.rows.output, width = windows.columns.output;
  const int64_t ahead = bands.rows_per_band * width;  // in the next band
  for_each_pool_band<T>(
      bands, (bands.rows_per_band + kSpan - 1) * width,
      [&](T* wide, int64_t plane, int64_t begin, int64_t end) {
        // The rows of codes that the band reads, in T.
        const int64_t top = larger(begin + Gradient::kFirst, 0);
        const int64_t bottom = smaller(end + Gradient::kLast, height);
        convert(wide, codes + plane * windows.output() + top * width, (bottom - top) * width);
        const T* from = dy + plane * windows.output();
        T* to = dx + plane * windows.plane();
        walk_down<kSpan, 1, -Gradient::kFirst, T>(
            blocks, begin, end, Maxima{},
            [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
              Maxima maxima;
              strip.read(maxima.dy, from + r * width, T(0));
              strip.prefetch(from + r * width + ahead);
              strip.read(maxima.codes, wide + (r - top) * width, T(0));
              return maxima;
            },
            [=](int64_t row, const auto& strip, int lanes, const Maxima* over)
                FASTDL_INLINE_LAMBDA {
                  Vec<T> sum[S][S];
                  Gradient::add_up(
                      sum, [&](int tap, int r, int column, Vec<T> so_far) FASTDL_INLINE_LAMBDA {
                        const Mask<T> hit = over[r].codes[column] == broadcast(T(tap));
                        return select(hit, so_far + over[r].dy[column], so_far);
                      });
                  Gradient::write(to, size, S * row, S * strip.column, lanes, sum);
                });
      });
}

template <typename T>
void forward(T* y, uint8_t* codes, const T* x, int64_t planes, const PoolWindows& windows) {
  with_window(windows.rows, [&]<int K, int S, int P>() {
    codes ? forward_codes<K, S, P>(y, codes, x, planes, windows)
          : forward_values<K, S, P>(y, x, planes, windows);
  });
}

template <typename T>
void backward(T* dx, const T* dy, const uint8_t* codes, int64_t planes,
              const PoolWindows& windows) {
  with_window(windows.rows, [&]<int K, int S, int P>() {
    backward_codes<K, S, P>(dx, dy, codes, planes, windows);
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(MaxPool2dTapsKernels, max_pool2d_taps_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
