// max_pool2d with small windows (pool_taps.h). For the gradient it keeps, instead of positions, the
// code of each window's largest element: row * K + column in the window, a byte. So the gradient
// is a gather: an element gets dy from those of its windows whose code is its tap there.
#include <math.h>

#include "kernels/max_pool2d.h"
#include "kernels/pool_taps.h"
#include "kernels/window_max.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int kNoTap = 255;

template <int K, int S, typename T>
void forward_values(T* y, const T* x, int64_t planes, const PoolWindows& windows) {
  const Conv2dSizes s = tap_sizes(windows);
  const Bands bands(s.out, kStageElements / (S * S));
  const TapRows<T> layout(s, bands.size);
  const int64_t* columns = layout.columns();
  for_each_band<T>(
      planes, bands, layout.scratch(1), windows.plane() / bands.count + 1,
      [&](T* scratch, int64_t band) {
        layout.surround(scratch, bands.first(band), static_cast<T>(-INFINITY));
      },
      [&](T* scratch, int64_t plane, int64_t band) {
        layout.copy(scratch, x + plane * s.in.area(), bands.first(band));
        layout.prefetch_next(x + plane * s.in.area(), bands.first(band));
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        T* to = y + plane * s.out.area() + bands.offset(band);
        walk_down<K, S>(
            rows, layout, outputs_of(bands, band),
            [&](const T* taps, int64_t) {
              Vec<T> best = load(taps + columns[0]);
#pragma GCC unroll 4
              for (int j = 1; j < K; ++j) best = max_or_nan(load(taps + columns[j]), best);
              return best;
            },
            [&](int64_t row, int64_t w, int lanes, const Vec<T>* under) {
              Vec<T> best = under[0];
#pragma GCC unroll 4
              for (int i = 1; i < K; ++i) best = max_or_nan(under[i], best);
              store(to + row * s.out.w + w, best, lanes);
            });
      });
}

template <int K, int S, typename T>
void forward_codes(T* y, uint8_t* codes, const T* x, int64_t planes, const PoolWindows& windows) {
  const Conv2dSizes s = tap_sizes(windows);
  const Bands bands(s.out, kStageElements / (S * S));
  const TapRows<T> layout(s, bands.size);
  const int64_t* columns = layout.columns();
  // Of each window of a row, its first column inside: the largest element where all are -inf.
  const Workspace<T> first_columns(s.out.w + Vec<T>::lanes);
  for (int64_t w = 0; w < s.out.w; ++w) {
    first_columns.data()[w] = static_cast<T>(windows.columns.first_tap(w));
  }
  const int64_t size = layout.scratch(1);
  for_each_band<T>(
      planes, bands, size + bands.size.area(), windows.plane() / bands.count + 1,
      [&](T* scratch, int64_t band) {
        layout.surround(scratch, bands.first(band), static_cast<T>(-INFINITY));
      },
      [&](T* scratch, int64_t plane, int64_t band) {
        layout.copy(scratch, x + plane * s.in.area(), bands.first(band));
        layout.prefetch_next(x + plane * s.in.area(), bands.first(band));
      },
      [&](T* rows, int64_t plane, int64_t band) {
        const HeightWidth first = bands.first(band), outputs = outputs_of(bands, band);
        const int64_t at = plane * s.out.area() + bands.offset(band);
        T *to = y + at, *found = rows + size;
        walk_down<K, S>(
            rows, layout, outputs,
            [&](const T* taps, int64_t w) {
              Best<T> best{broadcast(static_cast<T>(-INFINITY)),
                           load(first_columns.data() + first.w + w)};
#pragma GCC unroll 4
              for (int j = 0; j < K; ++j) best.meet(load(taps + columns[j]), broadcast(T(j)));
              return best;
            },
            [&](int64_t row, int64_t w, int lanes, const Best<T>* under) {
              const int64_t top = windows.rows.first_tap(first.h + row);
              Best<T> best{
                  broadcast(static_cast<T>(-INFINITY)),
                  load(first_columns.data() + first.w + w) + broadcast(static_cast<T>(top * K))};
#pragma GCC unroll 4
              for (int i = 0; i < K; ++i) {
                best.meet(under[i].value, under[i].offset + broadcast(T(i * K)));
              }
              store(to + row * s.out.w + w, best.value, lanes);
              store(found + row * outputs.w + w, best.offset, lanes);
            });
        for (int64_t i = 0; i < outputs.area(); ++i) {
          codes[at + i] = static_cast<uint8_t>(static_cast<int32_t>(found[i]));
        }
      });
}

template <int K, int S, int P, typename T>
void backward_codes(T* dx, const T* dy, const uint8_t* codes, int64_t planes,
                    const PoolWindows& windows) {
  using Gradient = WindowGradient<K, S, P>;
  const Conv2dSizes s = Gradient::sizes(tap_sizes(windows));
  const HeightWidth plane_size{windows.rows.size, windows.columns.size};
  const Bands bands(s.out, kStageElements / 2 / S);
  const TapRows<T> layout(s, bands.size);
  const int64_t size = layout.plane(), at_codes = layout.scratch(2);
  for_each_band<T>(
      planes, bands, at_codes + (bands.size.h + s.kernel.h - 1) * s.in.w,
      windows.plane() / bands.count + 1,
      [&](T* scratch, int64_t band) {
        layout.surround(scratch, bands.first(band), T(0));
        layout.surround(scratch + size, bands.first(band), T(kNoTap));
      },
      [&](T* scratch, int64_t plane, int64_t band) {
        const HeightWidth first = bands.first(band);
        layout.copy(scratch, dy + plane * s.in.area(), first);
        // The rows of codes that the band reads, in T.
        const int64_t above = first.h - s.padding.h, top = larger(above, 0);
        const int64_t bottom = smaller(above + bands.size.h + s.kernel.h - 1, s.in.h);
        const uint8_t* from = codes + plane * s.in.area() + top * s.in.w;
        T* wide = scratch + at_codes;
        for (int64_t i = 0; i < (bottom - top) * s.in.w; ++i) wide[i] = static_cast<T>(from[i]);
        layout.copy(scratch + size, wide - top * s.in.w, first);
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        Gradient::gather(dx + plane * plane_size.area(), plane_size, rows, layout.out_step(),
                         bands.first(band), outputs_of(bands, band),
                         [&](int tap, const T* from, Vec<T> sum) {
                           const Mask<T> hit = load(from + size) == broadcast(T(tap));
                           return select(hit, sum + load(from), sum);
                         });
      });
}

template <typename T>
void forward(T* y, uint8_t* codes, const T* x, int64_t planes, const PoolWindows& windows) {
  with_window(windows.rows, [&]<int K, int S, int P>() {
    codes ? forward_codes<K, S>(y, codes, x, planes, windows)
          : forward_values<K, S>(y, x, planes, windows);
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
