// avg_pool2d and adaptive_avg_pool2d: y is the sum of each window divided by a count, dx the sum of
// dy / count over the windows that an element lies in. Both are bound by memory.
//
// The kernels are those of max_pool2d.cu: small windows are read by a thread each, large ones of
// planes by several; dx is a gather. Sums of more than few taps go on in double.
#include "cuda/avg_pool2d.h"

#include "cuda/pool_taps.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

// What windows are divided by.
struct Counts {
  AvgPoolDivisor by;

  __device__ int64_t operator()(const Windows& windows, int row, int column) const {
    if (by.divisor != 0) return by.divisor;
    return windows.rows.extent(row, by.count_include_pad) *
           windows.columns.extent(column, by.count_include_pad);
  }
};

// 1 / count; that of whole windows, nearly all, is a constant.
template <typename C, int K>
__device__ C inverse_of(int64_t count) {
  return count == K * K ? C(1.0 / (K * K)) : 1 / static_cast<C>(count);
}

template <typename T, int N, int K, int S>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    taps_kernel(T* __restrict__ y, const T* __restrict__ x, int channels, Counts counts,
                Lines lines, Windows windows) {
  using C = Compute<T>;
  constexpr int R = kRowsOfTaps<N>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  if (N == 1) channels = 1;
  const int row = place.row * R;
  Taps<T, N, (R - 1) * S + K, K> taps;
  taps.load(x, place, windows.rows.start(row), windows.columns.start(place.column), channels,
            windows, narrow<T>(0));
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (row + r >= windows.rows.output) break;
    const C inverse = inverse_of<C, K>(counts(windows, row + r, place.column));
    Pack<T, N> result;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      C sum = 0;
#pragma unroll
      for (int i = 0; i < K; ++i) {
        C of_row = 0;  // the same for windows that share the row: computed once
#pragma unroll
        for (int j = 0; j < K; ++j) of_row += taps.value(r * S + i, j, n);
        sum += of_row;
      }
      result.values[n] = narrow<T>(sum * inverse);
    }
    const int64_t window =
        (place.image * windows.rows.output + row + r) * windows.columns.output + place.column;
    *reinterpret_cast<Pack<T, N>*>(y + window * channels + place.channel) = result;
  }
}

// Any windows.
template <typename T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    windows_kernel(T* __restrict__ y, const T* __restrict__ x, int channels, Counts counts,
                   Lines lines, Windows windows) {
  using C = Compute<T>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const Span rows = windows.rows.window(place.row), columns = windows.columns.window(place.column);
  const int64_t pitch = int64_t{windows.columns.size} * channels;
  x += (place.image * windows.rows.size + rows.first) * pitch + int64_t{columns.first} * channels +
       place.channel;
  double totals[N];
  sum_grid<C>(totals, rows.count, columns.count, [&](int r, int c, C(&sums)[N]) {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(x + r * pitch + int64_t{c} * channels);
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] += widen(pack.values[n]);
  });
  const C inverse = 1 / static_cast<C>(counts(windows, place.row, place.column));
  Pack<T, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) result.values[n] = narrow<T>(static_cast<C>(totals[n]) * inverse);
  const int64_t window =
      (place.image * windows.rows.output + place.row) * windows.columns.output + place.column;
  *reinterpret_cast<Pack<T, N>*>(y + window * channels + place.channel) = result;
}

// Large windows of planes: blockDim.x threads each.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    wide_kernel(T* __restrict__ y, const T* __restrict__ x, Counts counts, Lines lines,
                Windows windows) {
  using C = Compute<T>;
  Place place;
  const bool exists = lines.find(blockIdx.x * blockDim.y + threadIdx.y, place);
  const WideWindow window = exists ? WideWindow(windows, place) : WideWindow();
  x += window.offset;
  double total = 0;
  C sum = 0;
  int terms = 0;
  window.for_taps([&](int, int64_t at) {
    sum += widen(x[at]);
    if (++terms % 16 == 0) {
      total += static_cast<double>(sum);
      sum = 0;
    }
  });
  total = row_reduce(total + static_cast<double>(sum), Sum(), 0.0);
  if (!exists || threadIdx.x > 0) return;
  const C count = static_cast<C>(counts(windows, place.row, place.column));
  const int64_t at =
      (place.image * windows.rows.output + place.row) * windows.columns.output + place.column;
  y[at] = narrow<T>(static_cast<C>(total) / count);
}

// dx of any windows: a thread for N channels of an element.
template <typename T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    gather_kernel(T* __restrict__ dx, const T* __restrict__ dy, int channels, Counts counts,
                  Lines lines, Windows windows) {
  using C = Compute<T>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const Span rows = windows.rows.over(place.row), columns = windows.columns.over(place.column);
  const int64_t pitch = int64_t{windows.columns.output} * channels;
  dy += (place.image * windows.rows.output + rows.first) * pitch +
        int64_t{columns.first} * channels + place.channel;
  double totals[N];
  sum_grid<C>(totals, rows.count, columns.count, [&](int r, int c, C(&sums)[N]) {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(dy + r * pitch + int64_t{c} * channels);
    const C inverse = 1 / static_cast<C>(counts(windows, rows.first + r, columns.first + c));
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] += widen(pack.values[n]) * inverse;
  });
  Pack<T, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) result.values[n] = narrow<T>(static_cast<C>(totals[n]));
  const int64_t at =
      (place.image * windows.rows.size + place.row) * windows.columns.size + place.column;
  *reinterpret_cast<Pack<T, N>*>(dx + at * channels + place.channel) = result;
}

// dx of planes that are one window each. A line is that of N planes, and so of whole packs.
template <typename T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    planes_kernel(T* __restrict__ dx, const T* __restrict__ dy, Compute<T> inverse, int64_t planes,
                  Lines lines) {
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const unsigned plane = lines.columns.divisor, first = static_cast<unsigned>(place.column) * N;
  const unsigned before = lines.columns.divide(first);
  int64_t p = place.image * N + before;
  if (p >= planes) return;
  unsigned left = (before + 1) * plane - first;  // elements of the plane
  const int64_t at = (place.image * plane + place.column) * N;
  const int64_t rest = planes * plane - at;
  T share = narrow<T>(widen(dy[p]) * inverse);
  Pack<T, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if (left == 0 && ++p < planes) {
      left = plane;
      share = narrow<T>(widen(dy[p]) * inverse);
    }
    result.values[n] = share;
    --left;
  }
  if (rest >= N) {
    *reinterpret_cast<Pack<T, N>*>(dx + at) = result;
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (n < rest) dx[at + n] = result.values[n];
    }
  }
}

// dy / count, to be added to the elements of windows.
template <typename T, int N, int K>
struct Shares {
  using C = Compute<T>;
  const T* dy;
  Counts counts;

  struct Window {
    C share[N];
  };
  __device__ void load(Window& window, int64_t at, const Windows& windows, int row,
                       int column) const {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(dy + at);
    const C inverse = inverse_of<C, K>(counts(windows, row, column));
#pragma unroll
    for (int n = 0; n < N; ++n) window.share[n] = widen(pack.values[n]) * inverse;
  }
  __device__ void clear(Window& window) const { window = {}; }
  __device__ void add(C& sum, const Window& window, int, int n) const { sum += window.share[n]; }
};

// Whether the only window is the plane.
bool is_plane(const PoolAxis& axis) {
  return axis.output == 1 && axis.padding + axis.size <= axis.kernel;
}
bool is_plane(const AdaptiveAxis& axis) { return axis.output == 1; }

int64_t count_of_first(const PoolWindows& windows, AvgPoolDivisor by) {
  if (by.divisor != 0) return by.divisor;
  return windows.rows.extent(0, by.count_include_pad) *
         windows.columns.extent(0, by.count_include_pad);
}
int64_t count_of_first(const AdaptiveWindows& windows, AvgPoolDivisor) { return windows.plane(); }

}  // namespace

template <typename Of>
void AvgPool2d::forward(const Tensor& y, const Tensor& x, const Of& windows,
                        AvgPoolDivisor by) const {
  const Images images = images_of(x);
  const int64_t rows = windows.rows.output, columns = windows.columns.output;
  const int64_t taps = longest(windows.rows) * longest(windows.columns);
  const Counts counts{by};
  dispatch(x.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    T *const to = y.ptr<T>(), *const from = x.ptr<T>();
    const bool packs = images.channels % N == 0 && is_aligned(from) && is_aligned(to);
    const auto start = [&]<int P>(auto kernel, int64_t rows_of_threads) {
      for_all_lines(images.batch, rows_of_threads, columns, images.channels, P,
                    [&](const Lines& lines, int64_t threads) {
                      launch(device, pool_grid(threads), kernel, to, from, images.channels, counts,
                             lines, Windows(windows));
                    });
    };
    const bool few = dispatch_few_taps(windows, images, packs, [&]<int K, int S>() {
      if (images.channels_last) {
        start.template operator()<N>(taps_kernel<T, N, K, S>, rows);
      } else {
        start.template operator()<1>(taps_kernel<T, 1, K, S>,
                                     ceil_div<int64_t>(rows, kRowsOfTaps<1>));
      }
    });
    if (few) return;
    if (!images.channels_last && taps >= kWideTaps && taps < int64_t{1} << 31) {
      for_all_lines(images.batch, rows, columns, 1, 1, [&](const Lines& lines, int64_t count) {
        launch(device, wide_grid(count, taps), wide_kernel<T>, to, from, counts, lines,
               Windows(windows));
      });
    } else if (packs) {
      start.template operator()<N>(windows_kernel<T, N>, rows);
    } else {
      start.template operator()<1>(windows_kernel<T, 1>, rows);
    }
  });
}

template <typename Of>
void AvgPool2d::backward(const Tensor& dx, const Tensor& dy, const Of& windows,
                         AvgPoolDivisor by) const {
  const Images images = images_of(dx);
  const Counts counts{by};
  const int64_t plane = windows.plane();
  dispatch(dx.dtype, [&]<typename T>() {
    using C = Compute<T>;
    constexpr int N = kPackSize<T>;
    T *const to = dx.ptr<T>(), *const from = dy.ptr<T>();
    const bool packs = images.channels % N == 0 && is_aligned(from) && is_aligned(to);
    const bool few = dispatch_few_taps(windows, images, packs, [&]<int K, int S>() {
      if (images.channels_last) {
        spread_taps<N, K, S>(device, to, Shares<T, N, K>{from, counts}, images, windows);
      } else {
        spread_taps<1, K, S>(device, to, Shares<T, 1, K>{from, counts}, images, windows);
      }
    });
    if (few) return;
    const auto start = [&]<int P>() {
      for_all_lines(images.batch, windows.rows.size, windows.columns.size, images.channels, P,
                    [&](const Lines& lines, int64_t threads) {
                      launch(device, pool_grid(threads), gather_kernel<T, P>, to, from,
                             images.channels, counts, lines, Windows(windows));
                    });
    };
    if (!images.channels_last && is_plane(windows.rows) && is_plane(windows.columns) &&
        is_aligned(to) && plane * N < kPoolLimit) {
      const C inverse = 1 / static_cast<C>(count_of_first(windows, by));
      for_all_lines(ceil_div<int64_t>(images.batch, N), 1, plane, 1, 1,
                    [&](const Lines& lines, int64_t threads) {
                      launch(device, pool_grid(threads), planes_kernel<T, N>, to, from, inverse,
                             images.batch, lines);
                    });
    } else if (packs) {
      start.template operator()<N>();
    } else {
      start.template operator()<1>();
    }
  });
}

template void AvgPool2d::forward(const Tensor&, const Tensor&, const PoolWindows&,
                                 AvgPoolDivisor) const;
template void AvgPool2d::forward(const Tensor&, const Tensor&, const AdaptiveWindows&,
                                 AvgPoolDivisor) const;
template void AvgPool2d::backward(const Tensor&, const Tensor&, const PoolWindows&,
                                  AvgPoolDivisor) const;
template void AvgPool2d::backward(const Tensor&, const Tensor&, const AdaptiveWindows&,
                                  AvgPoolDivisor) const;

}  // namespace fastdl::cuda
