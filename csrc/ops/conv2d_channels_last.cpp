#include "ops/conv2d_channels_last.h"

#include <cstring>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/trace.h"
#include "kernels/conv2d_depthwise_channels_last.h"
#include "ops/channels_last.h"
#include "ops/linear.h"

namespace fastdl::ops {
namespace {

constexpr const char* kDepthwise = "depthwise, lanes along the channels";
constexpr int64_t kRowBytes = 1 << 18;  // some 10 us
constexpr const char* kCopied = "images with the channels last are copied";

// With the channels last, such windows make a matrix product of x as it lies.
bool is_matrix_product(const Tensor& x, const Conv2dSizes& s) {
  return x.channels_last && s.is_pointwise() && s.groups == 1;
}

bool is_depthwise(const Tensor& x, const Conv2dSizes& s) {
  return x.channels_last && s.group_channels() == 1 && s.group_out_channels() == 1;
}

// The pixels of all images as the rows of a matrix.
Tensor pixels(const Tensor& images) {
  const Shape& s = images.shape;
  return {images.data, images.dtype, {s[0] * s[2] * s[3], s[1]}, images.stored};
}

// The pixels that windows of 1x1 read: at a stride, a copy of some. `put` is the way back for their
// gradients, with zeros between.
class WindowPixels {
 public:
  WindowPixels(const Tensor& x, const Conv2dSizes& s)
      : s_(s),
        pixel_(static_cast<size_t>(s.channels) * dtype_size(x.dtype)),
        rows_{x.data, x.dtype, {s.batch * s.out.area(), s.channels}, x.stored},
        copy_(s.stride.area() > 1 ? rows_.shape[0] * static_cast<int64_t>(pixel_) : 0) {
    if (s.stride.area() > 1) rows_.data = copy_.data();
  }

  const Tensor& rows() const { return rows_; }

  void take(const Tensor& x) const {
    for_each_row(x, [&](char* of_x, char* row, int64_t windows) {
      const int64_t step = s_.stride.w * static_cast<int64_t>(pixel_);
      for (int64_t i = 0; i < windows; ++i, row += pixel_, of_x += step) memcpy(row, of_x, pixel_);
    });
  }

  void put(const Tensor& dx) const {
    for_each_row(dx, [&](char* of_x, const char* row, int64_t windows) {
      memset(of_x, 0, static_cast<size_t>(s_.in.w) * pixel_);
      const int64_t step = s_.stride.w * static_cast<int64_t>(pixel_);
      for (int64_t i = 0; i < windows; ++i, row += pixel_, of_x += step) memcpy(of_x, row, pixel_);
    });
  }

 private:
  // body(row of x, where its pixels lie in rows(), how many there are).
  template <typename Body>
  void for_each_row(const Tensor& x, Body&& body) const {
    if (s_.stride.area() == 1) return;
    const size_t width = static_cast<size_t>(s_.in.w) * pixel_;
    parallel_ranges(
        s_.batch * s_.in.h, kRowBytes / static_cast<int64_t>(width) + 1,
        [&](int64_t begin, int64_t end) {
          for (int64_t k = begin; k < end; ++k) {
            const int64_t n = k / s_.in.h, h = k % s_.in.h;
            const bool read = h % s_.stride.h == 0;
            const int64_t row = n * s_.out.h + h / s_.stride.h;
            body(x.ptr<char>() + static_cast<size_t>(k) * width,
                 static_cast<char*>(rows_.data) + static_cast<size_t>(row * s_.out.w) * pixel_,
                 read ? s_.out.w : 0);
          }
        });
  }

  Conv2dSizes s_;
  size_t pixel_;  // bytes
  Tensor rows_;
  Workspace<char> copy_;
};

Tensor matrix(const Tensor& weight) {
  return {weight.data, weight.dtype, {weight.shape[0], weight.shape[1]}, weight.stored};
}

void trace_depthwise(const Tensor& x, const Tensor& y, const Conv2dSizes& s, int products,
                     int arrays) {
  const auto outputs = static_cast<double>(y.numel());
  const double elements = static_cast<double>(x.numel()) + outputs * arrays;
  trace(kDepthwise, 2 * products * outputs * static_cast<double>(s.kernel.area()),
        elements * static_cast<double>(dtype_size(x.dtype)));
}

void note_copy() {
  if (!*last_trace.reason) last_trace.reason = kCopied;
}

}  // namespace

void conv2d_channels_last_forward(Output& y, const Shape& shape, const Tensor& x,
                                  const Tensor& weight, const Tensor* packed, const Tensor* bias,
                                  const Conv2dSizes& s, const Conv2dOptions& options,
                                  const EpilogueOptions& epilogue) {
  const char* op = "conv2d";
  if (is_matrix_product(x, s)) {
    const WindowPixels read(x, s);
    read.take(x);
    const Tensor out = pixels(y.make(op, shape, x.dtype, true));
    Output rows(out, out.stored);
    EpilogueOptions of_rows{epilogue.activation};
    Tensor residual;
    if (epilogue.residual) of_rows.residual = &(residual = pixels(*epilogue.residual));
    return linear_forward(rows, read.rows(), matrix(weight), nullptr, bias, of_rows);
  }
  if (is_depthwise(x, s)) {
    const Tensor& out = y.make(op, shape, x.dtype, true);
    trace_depthwise(x, out, s, 1, epilogue.residual ? 2 : 1);
    if (out.numel() == 0) return;
    return dispatch_float(x.dtype, [&]<typename T>() {
      conv2d_depthwise_channels_last_kernels<T>().forward(
          out.ptr<T>(), x.ptr<T>(), weight.ptr<T>(), ptr_or_null<T>(bias), s, epilogue.of<T>());
    });
  }
  const ChannelsFirst x_(x);
  std::optional<ChannelsFirst> residual;
  EpilogueOptions first = epilogue;
  if (epilogue.residual) first.residual = &residual.emplace(*epilogue.residual).tensor();
  Output y_;
  conv2d_forward(y_, x_.tensor(), weight, packed, bias, options, first);
  to_channels_last(y, y_.tensor());
  note_copy();
}

void conv2d_channels_last_backward(Output& dx, Output& dweight, Output& dbias, const Tensor& dy,
                                   const Tensor& x, const Tensor& weight, const Conv2dSizes& s,
                                   const Conv2dOptions& options, const std::array<bool, 3>& mask) {
  const char* op = "conv2d_backward";
  if (is_matrix_product(x, s)) {
    const WindowPixels read(x, s);
    if (mask[1]) read.take(x);
    std::optional<Output> dweight_;
    if (mask[1]) dweight_.emplace(matrix(dweight.make(op, weight.shape, x.dtype)), x.stored);
    linear_backward(nullptr, dweight_ ? &*dweight_ : nullptr, mask[2] ? &dbias : nullptr,
                    pixels(dy), read.rows(), matrix(weight));
    if (!mask[0]) return;
    const Tensor& to = dx.make(op, x.shape, x.dtype, true);
    const WindowPixels written(to, s);
    Output rows(written.rows(), x.stored);
    linear_backward(&rows, nullptr, nullptr, pixels(dy), written.rows(), matrix(weight));
    written.put(to);
    return;
  }
  if (is_depthwise(x, s)) {
    return dispatch_float(x.dtype, [&]<typename T>() {
      T* dx_ = mask[0] ? dx.make(op, x.shape, x.dtype, true).ptr<T>() : nullptr;
      T* dweight_ = mask[1] ? dweight.make(op, weight.shape, x.dtype).ptr<T>() : nullptr;
      T* dbias_ = mask[2] ? dbias.make(op, {s.out_channels}, x.dtype).ptr<T>() : nullptr;
      trace_depthwise(x, dy, s, int{mask[0]} + int{mask[1]}, 1);
      conv2d_depthwise_channels_last_kernels<T>().backward(dx_, dweight_, dbias_, dy.ptr<T>(),
                                                           x.ptr<T>(), weight.ptr<T>(), s);
    });
  }
  const ChannelsFirst dy_(dy), x_(x), weight_(weight);
  Output dx_, dweight_;
  conv2d_backward(x.channels_last ? dx_ : dx, weight.channels_last ? dweight_ : dweight, dbias,
                  dy_.tensor(), x_.tensor(), weight_.tensor(), options, mask);
  if (dx_.made()) to_channels_last(dx, dx_.tensor());
  if (dweight_.made()) to_channels_last(dweight, dweight_.tensor());
  note_copy();
}

}  // namespace fastdl::ops
