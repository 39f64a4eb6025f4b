// The windows of a pooling op, from its arguments: everything torch.nn.functional checks about
// them, and the shapes that follow.
#pragma once

#include <array>
#include <limits>
#include <optional>

#include "core/tensor.h"
#include "kernels/pool_windows.h"

namespace fastdl::ops {

using Pair = std::array<int64_t, 2>;  // height, width

struct PoolOptions {
  Pair kernel_size, stride;
  Pair padding{0, 0};
  Pair dilation{1, 1};
  bool ceil_mode = false;
};

// What the planes of an (N, C, H, W) or (C, H, W) array are pooled to.
struct PoolShape {
  int64_t planes;
  PoolWindows windows;
  Shape output;
};

inline void check_planes(const char* op, const char* name, const Shape& shape) {
  check(shape.ndim() == 3 || shape.ndim() == 4, op, name,
        " must be (N, C, H, W) or (C, H, W), got shape ", shape);
}

// From dimension `first` on.
inline void check_not_empty(const char* op, const char* name, const Shape& shape, int first) {
  for (int i = first; i < shape.ndim(); ++i) {
    check(shape[i] > 0, op, name, " may be empty in the batch dimension only, got shape ", shape);
  }
}

inline int64_t planes_of(const Shape& shape) { return shape.numel(0, shape.ndim() - 2); }

inline Shape with_plane(Shape shape, int64_t height, int64_t width) {
  shape[shape.ndim() - 2] = height;
  shape[shape.ndim() - 1] = width;
  return shape;
}

// torch's limit is that of int; it also keeps every product below within 64 bits.
inline void check_pair(const char* op, const char* name, const Pair& values, int64_t lowest) {
  for (const int64_t value : values) {
    check(lowest <= value && value <= std::numeric_limits<int32_t>::max(), op, name, " must be ",
          lowest > 0 ? "positive" : "at least 0", " and below 2**31, got (", values[0], ", ",
          values[1], ")");
  }
}

inline PoolAxis pool_axis(const char* op, const Shape& shape, int axis, const PoolOptions& o) {
  const int64_t size = shape[shape.ndim() - 2 + axis];
  const int64_t kernel = o.kernel_size[axis], stride = o.stride[axis], padding = o.padding[axis];
  const int64_t reach = o.dilation[axis] * (kernel - 1);
  check(padding <= kernel / 2, op, "padding must be at most half of kernel_size, got padding ",
        padding, " and kernel_size ", kernel);
  const int64_t room = checked_add(op, size, 2 * padding) - reach - 1;  // for a window to move
  check(room >= (o.ceil_mode ? 1 - stride : 0), op, "the window spans ", reach + 1,
        " elements, but x of shape ", shape, " with padding ", padding, " has only ",
        size + 2 * padding);
  int64_t last = o.ceil_mode ? ceil_div(room, stride) : room / stride;
  if (last * stride >= size + padding) --last;  // a window must start before the right padding
  return {size, kernel, stride, padding, o.dilation[axis], last + 1};
}

inline PoolShape pool_shape(const char* op, const char* name, const Shape& x,
                            const PoolOptions& o) {
  check_planes(op, name, x);
  check_not_empty(op, name, x, x.ndim() - 3);
  check_pair(op, "kernel_size", o.kernel_size, 1);
  check_pair(op, "stride", o.stride, 1);
  check_pair(op, "padding", o.padding, 0);
  check_pair(op, "dilation", o.dilation, 1);
  const PoolWindows windows{pool_axis(op, x, 0, o), pool_axis(op, x, 1, o)};
  return {planes_of(x), windows, with_plane(x, windows.rows.output, windows.columns.output)};
}

// The size of an adaptive pool's output; where it is not given, that of x.
using AdaptiveSize = std::array<std::optional<int64_t>, 2>;

struct AdaptiveShape {
  int64_t planes;
  AdaptiveWindows windows;
  Shape output;
};

inline AdaptiveShape adaptive_shape(const char* op, const Shape& x, const AdaptiveSize& size) {
  const int64_t height = x[x.ndim() - 2], width = x[x.ndim() - 1];
  const Pair out{size[0].value_or(height), size[1].value_or(width)};
  check_pair(op, "output_size", out, 0);
  checked_multiply(op, height, out[0]);  // as far as the bounds of windows are computed
  checked_multiply(op, width, out[1]);
  checked_multiply(op, out[0] * out[1], sizeof(double));  // the strides of an empty batch
  const AdaptiveWindows windows{{height, out[0]}, {width, out[1]}};
  return {planes_of(x), windows, with_plane(x, out[0], out[1])};
}

// The shape of the pool with gradient dy, of an x of input_size.
inline AdaptiveShape adaptive_shape_backward(const char* op, const Shape& input_size,
                                             const Shape& dy) {
  check_planes(op, "input_size", input_size);
  check_planes(op, "dy", dy);
  check_not_empty(op, "input_size", input_size, 1);
  check_not_empty(op, "dy", dy, 1);
  return adaptive_shape(op, input_size, {dy[dy.ndim() - 2], dy[dy.ndim() - 1]});
}

// Windows all of one size and equally far apart, as those that tile the plane or 6 in 13 elements,
// are those of an ordinary pool.
inline std::optional<PoolAxis> regular(const AdaptiveAxis& axis) {
  const int64_t kernel = axis.end(0), stride = axis.output > 1 ? axis.begin(1) : axis.size;
  for (int64_t o = 1; o < axis.output; ++o) {
    if (axis.begin(o) != o * stride || axis.end(o) != o * stride + kernel) return std::nullopt;
  }
  return PoolAxis{axis.size, kernel, stride, 0, 1, axis.output};
}

inline std::optional<PoolWindows> regular(const AdaptiveWindows& w) {
  if (w.output() == 0) return std::nullopt;
  const std::optional<PoolAxis> rows = regular(w.rows), columns = regular(w.columns);
  if (!rows || !columns) return std::nullopt;
  return PoolWindows{*rows, *columns};
}

// Adaptive windows that an ordinary pool of few taps serves better than one of any windows: enough
// of them in a row to fill the lanes.
inline std::optional<PoolWindows> few_taps(const AdaptiveWindows& w) {
  const std::optional<PoolWindows> windows = regular(w);
  return windows && has_few_taps(*windows) && w.columns.output >= 16 ? windows : std::nullopt;
}

// Across their columns, windows of up to 64 are reduced with the lanes along the planes, others
// with the lanes along the window.
inline bool is_narrow(const AdaptiveWindows& w) {
  return w.columns.output > 1 && ceil_div(w.columns.size, w.columns.output) < 64;
}

// A row between its padding is buffered, split by column modulo the stride: not for windows that
// are mostly padding, nor where a handful of them would leave the lanes empty.
inline bool suits_rows(const PoolWindows& windows) {
  const PoolAxis& columns = windows.columns;
  return columns.reach() <= 2 * columns.size && columns.stride <= 64 &&
         columns.output > columns.kernel / 2;
}

}  // namespace fastdl::ops
