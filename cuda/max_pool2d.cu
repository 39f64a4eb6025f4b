// max_pool2d and adaptive_max_pool2d: y is the largest element of each window, dx a gather by
// codes, which tell the tap of its window that each maximum is. Both are bound by memory.
//
// Forward: small windows are read by a thread each, with what rows of windows share read once,
// large ones of planes by several neighbours, whose maxima meet in a tree. Backward: a thread reads
// the windows over stride x stride elements. Elements that neighbours share come from L1.
#include "cuda/max_pool2d.h"

#include "cuda/pool_taps.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

// The largest element so far, and its number in the window. Of equal ones the first stays; a NaN
// beats every number, and a later NaN an earlier one.
template <typename C>
struct Best {
  C value;
  int tap;

  __device__ void meet(C v, int number) {
    if (v > value || v != v) {
      value = v;
      tap = number;
    }
  }
};

// Of two, in whichever order, the one that reading the window through would have kept.
struct Better {
  template <typename C>
  __device__ Best<C> operator()(const Best<C>& a, const Best<C>& b) const {
    const bool earlier = b.tap < a.tap,
               nan = b.value != b.value && !(a.value != a.value && earlier);
    return b.value > a.value || (b.value == a.value && earlier) || nan ? b : a;
  }
};

// Where a maximum goes. A code counts rows of `pitch` taps from the window's first inside.
template <typename T>
struct Maxima {
  T* y;
  uint8_t* codes;
  int64_t* indices;
  int pitch;
};

// N channels of a window, with codes where they are wanted.
template <typename T, int N, typename C>
__device__ void store_maxima(const Maxima<T>& to, int64_t at, const Best<C> (&best)[N], int base) {
  Pack<T, N> y;
  Pack<uint8_t, N> codes;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    y.values[n] = narrow<T>(best[n].value);
    codes.values[n] = static_cast<uint8_t>(best[n].tap - base);
  }
  *reinterpret_cast<Pack<T, N>*>(to.y + at) = y;
  if (to.codes) *reinterpret_cast<Pack<uint8_t, N>*>(to.codes + at) = codes;
}

template <typename T, int N, int K, int S>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    taps_kernel(Maxima<T> to, const T* __restrict__ x, int channels, Lines lines, Windows windows) {
  using C = Compute<T>;
  constexpr int R = kRowsOfTaps<N>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const int row = place.row * R, top = windows.rows.start(row);
  const int left = windows.columns.start(place.column);
  Taps<T, N, (R - 1) * S + K, K> taps;
  taps.load(x, place, top, left, N == 1 ? 1 : channels, windows, narrow<T>(-infinity(C{})));
  const int first_column = max(-left, 0);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    if (row + r >= windows.rows.output) break;
    const int start = top + r * S, first = max(-start, 0) * K + first_column;
    Best<C> best[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      best[n] = {-infinity(C{}), first};
#pragma unroll
      for (int i = 0; i < K; ++i) {
        // The same for windows that share the row: the compiler computes it once.
        Best<C> of_row{-infinity(C{}), first_column};
#pragma unroll
        for (int j = 0; j < K; ++j) of_row.meet(taps.value(r * S + i, j, n), j);
        best[n].meet(of_row.value, i * K + of_row.tap);
      }
    }
    const int64_t window =
        (place.image * windows.rows.output + row + r) * windows.columns.output + place.column;
    if constexpr (N == 1) {
      store_maxima(to, window, best, 0);
      if (to.indices) {
        const int tap = best[0].tap;
        to.indices[window] = int64_t{start + tap / K} * windows.columns.size + left + tap % K;
      }
    } else {
      store_maxima(to, window * channels + place.channel, best, first);
    }
  }
}

// Any windows.
template <typename T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    windows_kernel(Maxima<T> to, const T* __restrict__ x, int channels, Lines lines,
                   Windows windows) {
  using C = Compute<T>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const Span rows = windows.rows.window(place.row), columns = windows.columns.window(place.column);
  const int64_t width = windows.columns.size;
  const int64_t corner = rows.first * width + columns.first;
  x += (place.image * windows.rows.size * width + corner) * channels + place.channel;
  Best<C> best[N];
#pragma unroll
  for (int n = 0; n < N; ++n) best[n] = {-infinity(C{}), 0};
  for (int r = 0; r < rows.count; ++r) {
    const T* const line = x + r * rows.step * width * channels;
#pragma unroll 4
    for (int c = 0; c < columns.count; ++c) {
      const auto pack =
          *reinterpret_cast<const Pack<T, N>*>(line + int64_t{c} * columns.step * channels);
#pragma unroll
      for (int n = 0; n < N; ++n) best[n].meet(widen(pack.values[n]), r * to.pitch + c);
    }
  }
  const int64_t window =
      (place.image * windows.rows.output + place.row) * windows.columns.output + place.column;
  store_maxima(to, window * channels + place.channel, best, 0);
  if (!to.indices) return;
  const int r = best[0].tap / to.pitch, c = best[0].tap % to.pitch;
  const bool inside = rows.count > 0 && columns.count > 0;
  to.indices[window] = inside ? corner + r * rows.step * width + int64_t{c} * columns.step : -1;
}

// Large windows of planes: blockDim.x threads each.
template <typename T>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    wide_kernel(Maxima<T> to, const T* __restrict__ x, Lines lines, Windows windows) {
  using C = Compute<T>;
  Place place;
  const bool exists = lines.find(blockIdx.x * blockDim.y + threadIdx.y, place);
  const WideWindow window = exists ? WideWindow(windows, place) : WideWindow();
  x += window.offset;
  Best<C> best{-infinity(C{}), 0x7fffffff};  // of equals the first: any other
  window.for_taps([&](int tap, int64_t at) {
    const C v = widen(x[at]);
    if (best.tap == 0x7fffffff) best = {v, tap};
    best.meet(v, tap);
  });
  best = row_reduce(best, Better(), Best<C>{-infinity(C{}), 0x7fffffff});
  if (!exists || threadIdx.x > 0) return;
  const int64_t at =
      (place.image * windows.rows.output + place.row) * windows.columns.output + place.column;
  to.y[at] = narrow<T>(best.value);
  if (!to.indices) return;
  const bool inside = best.tap != 0x7fffffff;
  to.indices[at] = inside ? window.corner + window.position(best.tap) : -1;
}

// dx of any windows with codes: a thread for N channels of an element.
template <typename T, int N>
__global__ void __launch_bounds__(kPoolThreads, kPoolBlocks)
    gather_kernel(T* __restrict__ dx, const T* __restrict__ dy, const uint8_t* __restrict__ codes,
                  int pitch, int channels, Lines lines, Windows windows) {
  using C = Compute<T>;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  const Span rows = windows.rows.over(place.row), columns = windows.columns.over(place.column);
  const int64_t first =
      (place.image * windows.rows.output + rows.first) * windows.columns.output + columns.first;
  dy += first * channels + place.channel;
  codes += first * channels + place.channel;
  double totals[N];
  sum_grid<C>(totals, rows.count, columns.count, [&](int r, int c, C(&sums)[N]) {
    const int64_t at = (int64_t{r} * windows.columns.output + c) * channels;
    const int top = windows.rows.window(rows.first + r).first;
    const int left = windows.columns.window(columns.first + c).first;
    const int tap = (place.row - top) * pitch + place.column - left;
    const auto some = *reinterpret_cast<const Pack<T, N>*>(dy + at);
    const auto code = *reinterpret_cast<const Pack<uint8_t, N>*>(codes + at);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (code.values[n] == tap) sums[n] += widen(some.values[n]);
    }
  });
  Pack<T, N> result;
#pragma unroll
  for (int n = 0; n < N; ++n) result.values[n] = narrow<T>(static_cast<C>(totals[n]));
  const int64_t at =
      (place.image * windows.rows.size + place.row) * windows.columns.size + place.column;
  *reinterpret_cast<Pack<T, N>*>(dx + at * channels + place.channel) = result;
}

// Adds dy to the elements that the codes of windows tell.
template <typename T, int N, int K>
struct ByCodes {
  const T* dy;
  const uint8_t* codes;

  struct Window {
    Pack<T, N> dy;
    Pack<uint8_t, N> codes;
    int base;
  };
  __device__ void load(Window& window, int64_t at, const Windows& windows, int row,
                       int column) const {
    window.dy = *reinterpret_cast<const Pack<T, N>*>(dy + at);
    window.codes = *reinterpret_cast<const Pack<uint8_t, N>*>(codes + at);
    const int top = max(-windows.rows.start(row), 0), left = max(-windows.columns.start(column), 0);
    window.base = N == 1 ? 0 : top * K + left;
  }
  __device__ void clear(Window& window) const {
    window = {};
#pragma unroll
    for (int n = 0; n < N; ++n) window.codes.values[n] = 255;
  }
  __device__ void add(Compute<T>& sum, const Window& window, int tap, int n) const {
    if (window.codes.values[n] == tap - window.base) sum += widen(window.dy.values[n]);
  }
};

// Whether codes of images with the channels last count rows of as many taps as the kernel has.
bool codes_of_taps(const PoolWindows& windows, int64_t longest_row) {
  return longest_row == windows.columns.kernel;
}
bool codes_of_taps(const AdaptiveWindows&, int64_t) { return false; }

}  // namespace

template <typename Of>
void MaxPool2d::forward(const Tensor& y, const Tensor* indices, const Tensor* codes,
                        const Tensor& x, const Of& windows) const {
  const int64_t height = longest(windows.rows), width = longest(windows.columns);
  fastdl::check(height * width < int64_t{1} << 31, "max_pool2d",
                "windows of 2**31 or more elements are too large for a device");
  const Images images = images_of(x);
  const int64_t rows = windows.rows.output, columns = windows.columns.output;
  dispatch(x.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    uint8_t* const to_codes = ptr_or_null<uint8_t>(codes);
    const Maxima<T> to{y.ptr<T>(), to_codes, ptr_or_null<int64_t>(indices),
                       static_cast<int>(std::max<int64_t>(width, 1))};
    const T* from = x.ptr<T>();
    const bool packs =
        images.channels % N == 0 && is_aligned(from) && is_aligned(to.y) && is_aligned(to_codes);
    const auto start = [&]<int P>(auto kernel, int64_t rows_of_threads) {
      for_all_lines(images.batch, rows_of_threads, columns, images.channels, P,
                    [&](const Lines& lines, int64_t threads) {
                      launch(device, pool_grid(threads), kernel, to, from, images.channels, lines,
                             Windows(windows));
                    });
    };
    const bool few = dispatch_few_taps(
        windows, images, packs && codes_of_taps(windows, width), [&]<int K, int S>() {
          if (images.channels_last) {
            start.template operator()<N>(taps_kernel<T, N, K, S>, rows);
          } else {
            start.template operator()<1>(taps_kernel<T, 1, K, S>,
                                         ceil_div<int64_t>(rows, kRowsOfTaps<1>));
          }
        });
    if (few) return;
    if (!images.channels_last && height * width >= kWideTaps) {
      for_all_lines(images.batch, rows, columns, 1, 1, [&](const Lines& lines, int64_t count) {
        launch(device, wide_grid(count, height * width), wide_kernel<T>, to, from, lines,
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
void MaxPool2d::gather(const Tensor& dx, const Tensor& dy, const Tensor& codes,
                       const Of& windows) const {
  const Images images = images_of(dx);
  const int64_t width = longest(windows.columns);
  dispatch(dx.dtype, [&]<typename T>() {
    constexpr int N = kPackSize<T>;
    const uint8_t* const from_codes = codes.ptr<uint8_t>();
    const bool packs = images.channels % N == 0 && is_aligned(dx.data) && is_aligned(dy.data) &&
                       is_aligned(from_codes);
    const auto start = [&]<int P>() {
      for_all_lines(images.batch, windows.rows.size, windows.columns.size, images.channels, P,
                    [&](const Lines& lines, int64_t threads) {
                      launch(device, pool_grid(threads), gather_kernel<T, P>, dx.ptr<T>(),
                             dy.ptr<T>(), from_codes, static_cast<int>(width), images.channels,
                             lines, Windows(windows));
                    });
    };
    const bool few = dispatch_few_taps(
        windows, images, packs && codes_of_taps(windows, width), [&]<int K, int S>() {
          if (images.channels_last) {
            spread_taps<N, K, S>(device, dx.ptr<T>(), ByCodes<T, N, K>{dy.ptr<T>(), from_codes},
                                 images, windows);
          } else {
            spread_taps<1, K, S>(device, dx.ptr<T>(), ByCodes<T, 1, K>{dy.ptr<T>(), from_codes},
                                 images, windows);
          }
        });
    if (few) return;
    if (packs) {
      start.template operator()<N>();
    } else {
      start.template operator()<1>();
    }
  });
}

template void MaxPool2d::forward(const Tensor&, const Tensor*, const Tensor*, const Tensor&,
                                 const PoolWindows&) const;
template void MaxPool2d::forward(const Tensor&, const Tensor*, const Tensor*, const Tensor&,
                                 const AdaptiveWindows&) const;
template void MaxPool2d::gather(const Tensor&, const Tensor&, const Tensor&,
                                const PoolWindows&) const;
template void MaxPool2d::gather(const Tensor&, const Tensor&, const Tensor&,
                                const AdaptiveWindows&) const;

}  // namespace fastdl::cuda
