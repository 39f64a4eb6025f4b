#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// Windows along an axis, those of an adaptive pool or another, none of them empty: window o covers
// the elements begin[o] to end[o] - 1, and element i lies in the windows first[i] to last[i] - 1.
struct PoolSpans {
  int64_t size, output;
  const int64_t *begin, *end, *first, *last;
};

struct PoolChannelsLastSizes {
  int64_t batch, channels;
  PoolSpans rows, columns;
  int64_t widest;  // of the windows
};

// x and dx are (batch, rows.size, columns.size, channels), y and dy (batch, rows.output,
// columns.output, channels).
template <typename T>
struct PoolChannelsLastKernels {
  // The divisor of a window is that of its row times that of its column.
  void (*average)(T* y, const T* x, const PoolChannelsLastSizes& sizes, const T* of_rows,
                  const T* of_columns);
  void (*spread)(T* dx, const T* dy, const PoolChannelsLastSizes& sizes, const T* of_rows,
                 const T* of_columns);
  // codes, of y's shape, for windows of up to 256 elements: row * widest + column of the maximum
  // in its window. Null when nobody asks for them.
  void (*maxima)(T* y, uint8_t* codes, const T* x, const PoolChannelsLastSizes& sizes);
  void (*gather)(T* dx, const T* dy, const uint8_t* codes, const PoolChannelsLastSizes& sizes);
};

FASTDL_DECLARE_KERNELS(PoolChannelsLastKernels, pool_channels_last_kernels)

}  // namespace fastdl
