// What the kernels of pools share: the windows along an axis, the threads over the images, and the
// sums over windows. Images are (batch, rows, columns, channels), which planes are as well: a batch
// of images of one channel.
#pragma once

#include "core/check.h"
#include "cuda/divider.h"
#include "cuda/numbers.h"
#include "kernels/pool_windows.h"

namespace fastdl::cuda {

constexpr int kPoolThreads = 256;
constexpr int kPoolBlocks = 2;  // of a multiprocessor: up to 128 registers, and no spills
constexpr int64_t kPoolLimit = int64_t{1} << 30;  // of threads of a launch, and of 32-bit offsets

// Elements first, first + step, .. along an axis.
struct Span {
  int first, count, step;
};

// An ordinary pool's windows, or, without a kernel, an adaptive one's.
struct WindowAxis {
  int size, output;  // elements and windows
  int kernel, stride, padding, dilation;
  Divider by_stride, by_size, by_output;

  WindowAxis(const PoolAxis& axis) : WindowAxis(axis.size, axis.output) {
    fastdl::check(axis.size + axis.padding < int64_t{1} << 31, "pool", "an axis of ", axis.size,
                  " elements with padding ", axis.padding, " is too long for a device");
    kernel = static_cast<int>(axis.kernel);
    stride = static_cast<int>(axis.stride);
    padding = static_cast<int>(axis.padding);
    dilation = static_cast<int>(axis.dilation);
    by_stride = Divider(axis.stride);
  }
  WindowAxis(const AdaptiveAxis& axis) : WindowAxis(axis.size, axis.output) {}

  __device__ int start(int o) const { return o * stride - padding; }

  // The elements of window o that lie inside; dilation can leave none.
  __device__ Span window(int o) const {
    if (kernel == 0) return share(o, size, by_output);
    const int from = start(o), before = from < 0 ? -from : 0, behind = size - from;
    if (dilation == 1) return {from + before, min(kernel, behind) - before, 1};
    const int skipped = ceil_div<unsigned>(before, dilation);
    const int end = min(kernel, static_cast<int>(ceil_div<unsigned>(behind, dilation)));
    return {static_cast<int>(from + int64_t{skipped} * dilation), end - skipped, dilation};
  }

  // The windows over element i; without dilation.
  __device__ Span over(int i) const {
    if (kernel == 0) return share(i, output, by_size);
    const int below = i + padding - kernel;  // where the last window starts that does not reach it
    const int first = below < 0 ? 0 : windows_to(below);
    return {first, min(output, windows_to(i + padding)) - first, 1};
  }

  // How many elements of window o an average counts, as PoolAxis::extent().
  __device__ int64_t extent(int o, bool count_include_pad) const {
    if (kernel == 0) return window(o).count;
    const int64_t margin = count_include_pad ? padding : 0, from = start(o);
    return min(from + kernel, size + margin) - max(from, -margin);
  }

 private:
  // How many windows start at `position` at most, from the first one on.
  __device__ int windows_to(int position) const {
    return static_cast<int>(by_stride.divide(static_cast<unsigned>(position))) + 1;
  }
  // From floor(i * total / shares) to ceil((i + 1) * total / shares).
  __device__ static Span share(int i, int total, const Divider& shares) {
    const int64_t before = int64_t{i} * total;
    const auto first = static_cast<int>(shares.divide(before));
    const auto last = static_cast<int>(shares.divide(before + total - 1));
    return {first, last + 1 - first, 1};
  }

  WindowAxis(int64_t elements, int64_t windows)
      : size(static_cast<int>(elements)),
        output(static_cast<int>(windows)),
        kernel(0),
        stride(1),
        padding(0),
        dilation(1),
        by_size(elements),
        by_output(windows) {
    fastdl::check(elements < int64_t{1} << 31, "pool", "an axis of ", elements,
                  " elements is too long for a device");
  }
};

struct Windows {
  WindowAxis rows, columns;

  template <typename Of>
  Windows(const Of& windows) : rows(windows.rows), columns(windows.columns) {}
};

// The longest window along an axis, as far as it lies inside.
inline int64_t longest(const PoolAxis& axis) {
  int64_t most = 0;
  for (int64_t o = 0; o < axis.output; ++o) {
    most = std::max(most, axis.end_tap(o) - axis.first_tap(o));
    if (most == axis.kernel) break;
  }
  return most;
}
inline int64_t longest(const AdaptiveAxis& axis) {
  const int64_t share = axis.size / axis.output;  // at most 2 more, where both ends are cut
  int64_t most = 0;
  for (int64_t o = 0; o < axis.output && most < share + 2; ++o) {
    most = std::max(most, axis.end(o) - axis.begin(o));
  }
  return most;
}

// What a thread works on: `row` and `column` of an image, channels from `channel` on.
struct Place {
  int64_t image;
  int row, column, channel;
};

// The threads of a launch over lines of all images: runs of columns, and of channels in packs.
struct Lines {
  int64_t first_image;
  unsigned first_line, threads;
  int pack;
  Divider per_image, columns, packs;

  // False beyond the end.
  __device__ bool find(unsigned thread, Place& place) const {
    if (thread >= threads) return false;
    place.channel = static_cast<int>(packs.split(thread)) * pack;
    place.column = static_cast<int>(columns.split(thread));
    thread += first_line;
    place.row = static_cast<int>(per_image.split(thread));
    place.image = first_image + thread;
    return true;
  }
};

__device__ inline unsigned thread_number() { return blockIdx.x * blockDim.x + threadIdx.x; }

// run(lines, their threads) for all lines, 2^30 threads at once: once, but for huge arrays.
template <typename Run>
void for_all_lines(int64_t batch, int64_t lines_per_image, int64_t columns, int64_t channels,
                   int pack, Run&& run) {
  const int64_t line = columns * (channels / pack), lines = batch * lines_per_image;
  fastdl::check(
      line < kPoolLimit && lines_per_image < kPoolLimit, "pool",
      "images of more than 2**30 rows, or columns and channels, are too large for a device");
  if (line == 0) return;
  const int64_t together = kPoolLimit / line;
  for (int64_t first = 0; first < lines; first += together) {
    const int64_t threads = std::min(together, lines - first) * line;
    run(Lines{first / lines_per_image, static_cast<unsigned>(first % lines_per_image),
              static_cast<unsigned>(threads), pack, Divider(lines_per_image), Divider(columns),
              Divider(channels / pack)},
        threads);
  }
}

inline Grid pool_grid(int64_t threads) {
  return {static_cast<unsigned>(ceil_div<int64_t>(threads, kPoolThreads)), kPoolThreads};
}

// The images of a pool's input or output.
struct Images {
  int64_t batch;
  int channels;
  bool channels_last;
};
inline Images images_of(const Tensor& x) {
  const Shape& s = x.shape;
  if (x.channels_last) return {s[0], static_cast<int>(s[1]), true};
  return {s.numel(0, s.ndim() - 2), 1, false};
}

// Adds term(row, column, sums) of all rows and columns: 16 in a row, then in double.
template <typename C, int N, typename Term>
__device__ void sum_grid(double (&totals)[N], int rows, int columns, Term&& term) {
#pragma unroll
  for (int k = 0; k < N; ++k) totals[k] = 0;
  for (int r = 0; r < rows; ++r) {
    for (int begin = 0; begin < columns; begin += 16) {
      const int end = min(begin + 16, columns);
      C sums[N] = {};
#pragma unroll 4
      for (int c = begin; c < end; ++c) term(r, c, sums);
#pragma unroll
      for (int k = 0; k < N; ++k) totals[k] += static_cast<double>(sums[k]);
    }
  }
}

}  // namespace fastdl::cuda
