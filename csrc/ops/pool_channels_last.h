// The pools of images with the channels last, from the windows of any of them.
#pragma once

#include <variant>
#include <vector>

#include "core/device.h"
#include "core/trace.h"
#include "cuda/avg_pool2d.h"
#include "kernels/pool_channels_last.h"
#include "ops/channels_last.h"
#include "ops/max_pool2d.h"
#include "ops/pool_windows.h"

namespace fastdl::ops {

// Which windows and elements meet along an axis.
class SpanTable {
 public:
  explicit SpanTable(const PoolAxis& axis) : SpanTable(axis.size, axis.output) {
    for (int64_t o = 0; o < axis.output; ++o) {
      begin_[o] = std::max<int64_t>(axis.start(o), 0);
      end_[o] = std::min(axis.start(o) + axis.kernel, axis.size);
    }
    invert();
  }
  explicit SpanTable(const AdaptiveAxis& axis) : SpanTable(axis.size, axis.output) {
    for (int64_t o = 0; o < axis.output; ++o) {
      begin_[o] = axis.begin(o);
      end_[o] = axis.end(o);
    }
    invert();
  }

  PoolSpans spans() const {
    return {static_cast<int64_t>(first_.size()),
            static_cast<int64_t>(begin_.size()),
            begin_.data(),
            end_.data(),
            first_.data(),
            last_.data()};
  }
  int64_t length(int64_t o) const { return end_[o] - begin_[o]; }
  int64_t longest() const {
    int64_t most = 0;
    for (size_t o = 0; o < begin_.size(); ++o) most = std::max(most, end_[o] - begin_[o]);
    return most;
  }

 private:
  SpanTable(int64_t size, int64_t output)
      : begin_(output), end_(output), first_(size), last_(size) {}

  // Both ends of windows only go up.
  void invert() {
    const auto windows = static_cast<int64_t>(begin_.size());
    int64_t first = 0, last = 0;
    for (size_t i = 0; i < first_.size(); ++i) {
      const auto element = static_cast<int64_t>(i);
      while (first < windows && end_[first] <= element) ++first;
      while (last < windows && begin_[last] <= element) ++last;
      first_[i] = first;
      last_[i] = std::max(first, last);
    }
  }

  std::vector<int64_t> begin_, end_, first_, last_;
};

// Windows of a pool over x, (N, C, H, W).
struct ChannelsLastWindows {
  template <typename Windows>
  ChannelsLastWindows(const Shape& x, const Windows& windows)
      : batch(x[0]), channels(x[1]), rows(windows.rows), columns(windows.columns), all(windows) {}

  PoolChannelsLastSizes sizes() const {
    return {batch, channels, rows.spans(), columns.spans(), columns.longest()};
  }
  bool have_codes() const { return rows.longest() * columns.longest() <= 256; }

  int64_t batch, channels;
  SpanTable rows, columns;
  std::variant<PoolWindows, AdaptiveWindows> all;  // as a device's kernels take them
};

constexpr const char* kChannelsLast = "lanes along the channels";

// What the mean of a window is divided by, (row's, column's).
template <typename T>
struct WindowDivisors {
  std::vector<T> rows, columns;
  AvgPoolDivisor by;  // where they come from
};

// y of x or, if `spreads`, dx of dy.
template <typename T>
void average_channels_last(const Tensor& to, const Tensor& from, const ChannelsLastWindows& windows,
                           const WindowDivisors<T>& by, bool spreads) {
  const auto elements = static_cast<double>(to.numel() + from.numel());
  trace(kChannelsLast, elements, elements * static_cast<double>(dtype_size(to.dtype)));
  if (to.numel() == 0) return;
  if (on_device([&](const Device& device) {
        std::visit(
            [&](const auto& all) {
              const cuda::AvgPool2d kernels{device};
              spreads ? kernels.backward(to, from, all, by.by)
                      : kernels.forward(to, from, all, by.by);
            },
            windows.all);
      })) {
    return;
  }
  const auto& kernels = pool_channels_last_kernels<T>();
  (spreads ? kernels.spread : kernels.average)(to.ptr<T>(), from.ptr<T>(), windows.sizes(),
                                               by.rows.data(), by.columns.data());
}

// Makes y, and codes (N, H', W', C) if they are wanted. False, with nothing made, if there are no
// codes for such windows, or only indices will do: then it is up to maxima_channels_first().
bool maxima_channels_last(const char* op, const MaxPoolOutputs& to, const Tensor& x,
                          const ChannelsLastWindows& windows, const Shape& output);
void gather_channels_last(const char* op, Output& dx, const Tensor& dy, const Tensor& codes,
                          const Shape& input_size, const ChannelsLastWindows& windows);

}  // namespace fastdl::ops
