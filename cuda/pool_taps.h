// Windows of few taps, known when the kernel is compiled: what is read of them is in flight at
// once. And large windows, which several threads share.
#pragma once

#include "cuda/pool_windows.h"

namespace fastdl::cuda {

// Calls body.template operator()<kernel, stride>() for windows that has_few_taps(), if the images
// are planes or `packs` of channels. False for other windows.
template <typename Body>
bool dispatch_few_taps(const PoolWindows& windows, const Images& images, bool packs, Body&& body) {
  if (!has_few_taps(windows) || (images.channels_last && !packs)) return false;
  if (windows.rows.kernel == 2) {
    body.template operator()<2, 2>();
  } else if (windows.rows.stride == 1) {
    body.template operator()<3, 1>();
  } else {
    body.template operator()<3, 2>();
  }
  return true;
}
template <typename Body>
bool dispatch_few_taps(const AdaptiveWindows&, const Images&, bool, Body&&) {
  return false;
}

// H x W packs of N channels, with `outside` around the image.
template <typename T, int N, int H, int W>
struct Taps {
  Pack<T, N> packs[H][W];

  __device__ void load(const T* x, const Place& place, int top, int left, int channels,
                       const Windows& windows, T outside) {
    const int height = windows.rows.size, width = windows.columns.size;
    x += ((place.image * height + top) * width + left) * channels + place.channel;
#pragma unroll
    for (int i = 0; i < H; ++i) {
      const bool in_rows = 0 <= top + i && top + i < height;
      const T* const line = x + int64_t{i} * width * channels;
#pragma unroll
      for (int j = 0; j < W; ++j) {
        if (in_rows && 0 <= left + j && left + j < width) {
          packs[i][j] = *reinterpret_cast<const Pack<T, N>*>(line + int64_t{j} * channels);
        } else {
#pragma unroll
          for (int n = 0; n < N; ++n) packs[i][j].values[n] = outside;
        }
      }
    }
  }
  __device__ Compute<T> value(int i, int j, int n) const { return widen(packs[i][j].values[n]); }
};

// Results below each other of a thread of a forward kernel: windows of planes share rows.
template <int N>
constexpr int kRowsOfTaps = N == 1 ? 4 : 1;

constexpr int floor_div(int a, int b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// A thread's share of the gather below: R x 1 blocks of S x S elements, and the windows over them.
// Block a covers the elements S a + e - padding + F: tap e + F - S q of window a + q is its e.
template <int N, int K, int S, int F>
struct Blocks {
  static constexpr int kRows = N == 1 ? 4 / S : 1;
  static constexpr int kFirst = -floor_div(K - 1 - F, S), kLast = (S - 1 + F) / S;  // of q
  static constexpr int kSpan = kLast - kFirst + 1;
};

// dx as a gather from windows of few taps. The source loads what it needs of a window, and adds it
// to the elements it lies over. With `pairs` two neighbours are stored at once.
template <int N, int K, int S, int F, typename T, typename Source>
__global__ void __launch_bounds__(kPoolThreads, N > 1 && S == 1 ? 1 : kPoolBlocks)
    spread_kernel(T* __restrict__ dx, Source source, int channels, bool pairs, Lines lines,
                  Windows windows) {
  using C = Compute<T>;
  using B = Blocks<N, K, S, F>;
  constexpr int kHeight = B::kRows + B::kSpan - 1;
  Place place;
  if (!lines.find(thread_number(), place)) return;
  if (N == 1) channels = 1;
  const int row = place.row * B::kRows, height = windows.rows.output;
  const int column = place.column, width = windows.columns.output;
  typename Source::Window over[kHeight][B::kSpan];
#pragma unroll
  for (int i = 0; i < kHeight; ++i) {
    const int r = row + B::kFirst + i;
#pragma unroll
    for (int j = 0; j < B::kSpan; ++j) {
      const int c = column + B::kFirst + j;
      if (0 <= r && r < height && 0 <= c && c < width) {
        const int64_t at = (place.image * height + r) * width + c;
        source.load(over[i][j], at * channels + place.channel, windows, r, c);
      } else {
        source.clear(over[i][j]);
      }
    }
  }
  const int left = S * column - windows.columns.padding + F;
#pragma unroll
  for (int i = 0; i < B::kRows * S; ++i) {
    const int h = S * row + i - windows.rows.padding + F;
    if (h < 0 || h >= windows.rows.size) continue;
    T* const line =
        dx + ((place.image * windows.rows.size + h) * windows.columns.size + left) * channels +
        place.channel;
    Pack<T, N> results[S];
#pragma unroll
    for (int e = 0; e < S; ++e) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        C sum = 0;
#pragma unroll
        for (int k = B::kFirst; k <= B::kLast; ++k) {
#pragma unroll
          for (int l = B::kFirst; l <= B::kLast; ++l) {
            const int a = i % S + F - S * k, b = e + F - S * l;
            if (a < 0 || a >= K || b < 0 || b >= K) continue;
            source.add(sum, over[i / S + k - B::kFirst][l - B::kFirst], a * K + b, n);
          }
        }
        results[e].values[n] = narrow<T>(sum);
      }
    }
    if (N == 1 && S == 2 && pairs) {
      *reinterpret_cast<Pack<T, 2>*>(line) = {results[0].values[0], results[S - 1].values[0]};
      continue;
    }
#pragma unroll
    for (int e = 0; e < S; ++e) {
      if (left + e < 0 || left + e >= windows.columns.size) continue;
      *reinterpret_cast<Pack<T, N>*>(line + int64_t{e} * channels) = results[e];
    }
  }
}

template <int N, int K, int S, int F, typename T, typename Source>
void spread_taps_from(const Device& device, T* dx, const Source& source, const Images& images,
                      const PoolWindows& windows) {
  const int64_t before = windows.rows.padding - F;
  const bool pairs = before == 0 && windows.columns.size % 2 == 0 && is_aligned(dx);
  const int64_t rows = ceil_div<int64_t>(windows.rows.size + before, Blocks<N, K, S, F>::kRows * S);
  const int64_t columns = ceil_div<int64_t>(windows.columns.size + before, S);
  for_all_lines(images.batch, rows, columns, images.channels, N,
                [&](const Lines& lines, int64_t threads) {
                  launch(device, pool_grid(threads), spread_kernel<N, K, S, F, T, Source>, dx,
                         source, images.channels, pairs, lines, Windows(windows));
                });
}

// K and S as dispatch_few_taps() tells them.
template <int N, int K, int S, typename T, typename Source>
void spread_taps(const Device& device, T* dx, const Source& source, const Images& images,
                 const PoolWindows& windows) {
  if constexpr (N == 1 && K == 3 && S == 2) {  // blocks from even columns on: they store pairs
    if (windows.rows.padding == 1) {
      return spread_taps_from<N, K, S, 1>(device, dx, source, images, windows);
    }
  }
  spread_taps_from<N, K, S, 0>(device, dx, source, images, windows);
}

constexpr int64_t kWideTaps = 32;  // of a window that several threads share

// A window of a plane, of which blockDim.x threads take every so many elements.
struct WideWindow {
  int64_t corner = 0, offset = 0;  // of its first element, in the plane and in all planes
  int64_t pitch = 0;
  int rows = 0, width = 0, step = 1;

  WideWindow() = default;
  __device__ WideWindow(const Windows& windows, const Place& place) {
    const Span down = windows.rows.window(place.row), across = windows.columns.window(place.column);
    if (down.count <= 0 || across.count <= 0) return;
    const int64_t columns = windows.columns.size;
    corner = down.first * columns + across.first;
    offset = place.image * windows.rows.size * columns + corner;
    pitch = down.step * columns;
    const bool whole = across.count == columns && down.step == 1;  // rows are one run
    rows = whole ? 1 : down.count;
    width = whole ? down.count * across.count : across.count;
    step = across.step;
  }
  // The place of an element, from the first.
  __device__ int64_t position(int tap) const {
    return tap / width * pitch + int64_t{tap % width} * step;
  }
  // visit(tap, position) for those of this thread.
  template <typename Visit>
  __device__ void for_taps(Visit&& visit) const {
    if (width == 0) return;
    const unsigned taps = static_cast<unsigned>(rows) * width;
    const int more_rows = static_cast<int>(blockDim.x) / width;
    const int more_columns = static_cast<int>(blockDim.x) % width;
    int r = static_cast<int>(threadIdx.x) / width, c = static_cast<int>(threadIdx.x) % width;
#pragma unroll 4
    for (unsigned tap = threadIdx.x; tap < taps; tap += blockDim.x) {
      visit(static_cast<int>(tap), r * pitch + int64_t{c} * step);
      r += more_rows;
      c += more_columns;
      if (c >= width) {
        c -= width;
        ++r;
      }
    }
  }
};

// Some 8 elements to a thread, but no more than a block to a window.
inline Grid wide_grid(int64_t windows, int64_t taps) {
  unsigned threads = 4;
  while (threads < kPoolThreads && threads * 8 < taps) threads *= 2;
  const unsigned together = threads <= kWarp ? kPoolThreads / threads : 1;  // as row_reduce() asks
  return {static_cast<unsigned>(ceil_div<int64_t>(windows, together)), dim3(threads, together)};
}

}  // namespace fastdl::cuda
