// avg_pool2d with small windows (pool_taps.h): sums along rows, then over rows, times the inverse
// of each window's divisor; backward gathers dy times that inverse.
#include "kernels/avg_pool2d.h"
#include "kernels/pool_divisors.h"
#include "kernels/pool_taps.h"

namespace fastdl::FASTDL_ISA {
namespace {

template <int K, int S, typename T>
void forward_window(T* y, const T* x, int64_t planes, const PoolWindows& windows,
                    AvgPoolDivisor divisor) {
  const Conv2dSizes s = tap_sizes(windows);
  const Bands bands(s.out, kStageElements / (S * S));
  const TapRows<T> layout(s, bands.size);
  const int64_t* columns = layout.columns();
  const InverseTable<T> inverses(windows, divisor);
  for_each_band<T>(
      planes, bands, layout.scratch(1), windows.plane() / bands.count + 1,
      [&](T* scratch, int64_t band) { layout.surround(scratch, bands.first(band), T(0)); },
      [&](T* scratch, int64_t plane, int64_t band) {
        layout.copy(scratch, x + plane * s.in.area(), bands.first(band));
        layout.prefetch_next(x + plane * s.in.area(), bands.first(band));
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        const HeightWidth first = bands.first(band);
        T* to = y + plane * s.out.area() + bands.offset(band);
        walk_down<K, S>(
            rows, layout, outputs_of(bands, band),
            [&](const T* taps, int64_t) {
              Vec<T> sum = load(taps + columns[0]);
#pragma GCC unroll 4
              for (int j = 1; j < K; ++j) sum += load(taps + columns[j]);
              return sum;
            },
            [&](int64_t row, int64_t w, int lanes, const Vec<T>* under) {
              Vec<T> sum = under[0];
#pragma GCC unroll 4
              for (int i = 1; i < K; ++i) sum += under[i];
              const T* inverse = inverses.row(first.h + row) + first.w + w;
              store(to + row * s.out.w + w, sum * load(inverse, lanes), lanes);
            });
      });
}

// Multiplies what layout.copy() laid out of dy by the inverse divisors.
template <typename T>
FASTDL_INLINE void scale(T* rows, const TapRows<T>& layout, const Conv2dSizes& s, HeightWidth first,
                         HeightWidth outputs, const InverseTable<T>& inverses) {
  const int64_t top = first.h - s.padding.h, left = first.w - s.padding.w;
  const Inside row(top, 1, outputs.h + s.kernel.h - 1, s.in.h);
  const Inside column(left, 1, outputs.w + s.kernel.w - 1, s.in.w);
  for (int64_t r = row.begin; r < row.end; ++r) {
    T* to = rows + r * layout.out_step() + column.begin;
    const T* inverse = inverses.row(top + r) + left + column.begin;
    for_each_vec<T>(column.end - column.begin, [&](int64_t i, int lanes) {
      store(to + i, load(to + i, lanes) * load(inverse + i, lanes), lanes);
    });
  }
}

template <int K, int S, int P, typename T>
void backward_window(T* dx, const T* dy, int64_t planes, const PoolWindows& windows,
                     AvgPoolDivisor divisor) {
  using Gradient = WindowGradient<K, S, P>;
  const Conv2dSizes s = Gradient::sizes(tap_sizes(windows));
  const HeightWidth plane_size{windows.rows.size, windows.columns.size};
  const Bands bands(s.out, kStageElements / S);
  const TapRows<T> layout(s, bands.size);
  const InverseTable<T> inverses(windows, divisor);
  for_each_band<T>(
      planes, bands, layout.scratch(1), windows.plane() / bands.count + 1,
      [&](T* scratch, int64_t band) { layout.surround(scratch, bands.first(band), T(0)); },
      [&](T* scratch, int64_t plane, int64_t band) {
        layout.copy(scratch, dy + plane * s.in.area(), bands.first(band));
        scale(scratch, layout, s, bands.first(band), outputs_of(bands, band), inverses);
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        Gradient::gather(dx + plane * plane_size.area(), plane_size, rows, layout.out_step(),
                         bands.first(band), outputs_of(bands, band),
                         [&](int, const T* from, Vec<T> sum) { return sum + load(from); });
      });
}

template <typename T>
void forward(T* y, const T* x, int64_t planes, const PoolWindows& windows, AvgPoolDivisor divisor) {
  with_window(windows.rows,
              [&]<int K, int S, int P>() { forward_window<K, S>(y, x, planes, windows, divisor); });
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
