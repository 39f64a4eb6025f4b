// Images as the kernels of conv2d see them: pixels, the taps of a window, and the elements of x or
// dy that meet there.
#pragma once

#include "cuda/conv2d.h"
#include "cuda/divider.h"
#include "cuda/epilogue.h"

namespace fastdl::cuda {

// Images, or weights as images of their input channels: elements from one to the next.
struct Strides {
  int64_t n, c, h, w;
};

inline Strides strides_of(const Tensor& x, int64_t channels, HeightWidth plane) {
  const int64_t c = channels, area = plane.area();
  return x.channels_last ? Strides{area * c, 1, plane.w * c, c}
                         : Strides{c * area, area, plane.w, 1};
}

// The sizes as kernels need them: what one group has.
struct Window {
  int in_h, in_w, out_h, out_w, kernel_h, kernel_w;
  int stride_h, stride_w, dilation_h, dilation_w, padding_h, padding_w;
  int channels, outs;  // of a group

  explicit Window(const Conv2dSizes& s)
      : in_h(to_int(s.in.h)),
        in_w(to_int(s.in.w)),
        out_h(to_int(s.out.h)),
        out_w(to_int(s.out.w)),
        kernel_h(to_int(s.kernel.h)),
        kernel_w(to_int(s.kernel.w)),
        stride_h(to_int(s.stride.h)),
        stride_w(to_int(s.stride.w)),
        dilation_h(to_int(s.dilation.h)),
        dilation_w(to_int(s.dilation.w)),
        padding_h(to_int(s.padding.h)),
        padding_w(to_int(s.padding.w)),
        channels(to_int(s.group_channels())),
        outs(to_int(s.group_out_channels())) {
    to_int(s.in.h + s.padding.h);
    to_int(s.in.w + s.padding.w);
    to_int(s.taps());
    to_int(s.group_out_channels() * s.kernel.area());
    to_int(s.in.area());
    to_int(s.out.area());
  }

 private:
  // Sizes along one axis fit 31 bits; only products of theirs with others do not.
  static int to_int(int64_t size) {
    fastdl::check(size <= INT32_MAX, "conv2d", "a size of ", size, " is too large for a GPU");
    return static_cast<int>(size);
  }
};

// By the pixels of a plane; Window has checked that they fit.
inline Divider plane_divider(int h, int w) { return Divider(int64_t{h} * w); }

// A pixel of an image; its channels begin at `offset`, and its row and column, without what lies
// before the padding, are h and w.
struct Pixel {
  int64_t offset;
  int h, w;
};

// A channel, and a tap of the window.
struct Tap {
  int64_t channel;
  int h, w;
};

// Taps counted channel by channel, or, where channels are neighbours, tap by tap.
struct TapOrder {
  bool channels_last;
  Divider second, third;

  TapOrder(const Window& w, int channels, bool channels_last)
      : channels_last(channels_last),
        second(channels_last ? w.kernel_w : w.kernel_h),
        third(channels_last ? std::max(channels, 1) : w.kernel_w) {}

  __device__ Tap tap(int64_t index) const {
    auto first = static_cast<unsigned>(index);  // a window's taps are fewer than 2^31
    const auto k = static_cast<int>(third.split(first)), j = static_cast<int>(second.split(first));
    if (channels_last) return {k, static_cast<int>(first), j};
    return {first, j, k};
  }
};

// Pixels of images, counted row by row.
struct PixelOrder {
  Divider h, w;

  PixelOrder(int h, int w) : h(h), w(w) {}
  // Returns the image.
  __device__ int64_t split(int64_t index, int& row, int& col) const {
    col = static_cast<int>(w.split(index));
    row = static_cast<int>(h.split(index));
    return index;
  }
};

// x under the windows: pixels are those of y.
template <typename T>
struct Patches {
  const T* images;
  Strides strides;
  Window window;
  bool channels_last;
  TapOrder taps = {window, window.channels, channels_last};
  PixelOrder pixels = {window.out_h, window.out_w};

  __device__ Pixel pixel(int64_t index) const {
    int h, w;
    const int64_t n = pixels.split(index, h, w);
    return {n * strides.n, h * window.stride_h - window.padding_h,
            w * window.stride_w - window.padding_w};
  }
  __device__ Tap tap(int64_t index) const {
    const Tap t = taps.tap(index);
    return {t.channel * strides.c, t.h * window.dilation_h, t.w * window.dilation_w};
  }
  // Null in the padding.
  __device__ const T* at(const Pixel& p, const Tap& t) const {
    const int h = p.h + t.h, w = p.w + t.w;
    if (h < 0 || h >= window.in_h || w < 0 || w >= window.in_w) return nullptr;
    return images + p.offset + t.channel + h * strides.h + w * strides.w;
  }
  __device__ int64_t group(int64_t g) const { return g * channels() * strides.c; }
  __host__ __device__ int channels() const { return window.channels; }
};

// dy by the windows that reach a pixel of x.
template <typename T>
struct Reached {
  const T* images;  // dy
  Strides strides;
  Window window;
  bool channels_last;
  TapOrder taps = {window, window.outs, channels_last};
  PixelOrder pixels = {window.in_h, window.in_w};
  Divider stride_h = Divider(window.stride_h), stride_w = Divider(window.stride_w);

  __device__ Pixel pixel(int64_t index) const {
    int h, w;
    const int64_t n = pixels.split(index, h, w);
    return {n * strides.n, h + window.padding_h, w + window.padding_w};
  }
  __device__ Tap tap(int64_t index) const {
    const Tap t = taps.tap(index);
    return {t.channel * strides.c, t.h * window.dilation_h, t.w * window.dilation_w};
  }
  // Null where no window that reaches the pixel has it under that tap.
  __device__ const T* at(const Pixel& p, const Tap& t) const {
    const int h = p.h - t.h, w = p.w - t.w;
    if (h < 0 || w < 0) return nullptr;
    auto out_h = static_cast<unsigned>(h), out_w = static_cast<unsigned>(w);
    if (stride_h.split(out_h) != 0 || stride_w.split(out_w) != 0) return nullptr;
    if (out_h >= static_cast<unsigned>(window.out_h)) return nullptr;
    if (out_w >= static_cast<unsigned>(window.out_w)) return nullptr;
    return images + p.offset + t.channel + out_h * strides.h + out_w * strides.w;
  }
  __device__ int64_t group(int64_t g) const { return g * channels() * strides.c; }
  __host__ __device__ int channels() const { return window.outs; }
};

// Images as a result: (channel, pixel), or transposed.
template <typename T, bool kTransposed>
struct ImageResult {
  Finish<T> finish;
  Strides strides;
  Divider area;
  int channels;  // of a group
  bool packs =
      finish.aligned() && (kTransposed ? strides.c == 1 && channels % 8 == 0 && strides.w % 8 == 0
                                       : strides.w == 1 && area.divisor % 8 == 0);

  __device__ void put(int64_t g, int64_t row, int64_t col, Compute<T> sum) const {
    const int64_t c = channel(g, row, col);
    finish.put(offset(c, row, col), c, sum);
  }
  template <int N>
  __device__ void put_pack(int64_t g, int64_t row, int64_t col, const Compute<T> (&sums)[N]) const {
    const int64_t c = channel(g, row, col);
    finish.put_pack(offset(c, row, col), c, kTransposed ? 1 : 0, sums);
  }

 private:
  __device__ int64_t channel(int64_t g, int64_t row, int64_t col) const {
    return g * channels + (kTransposed ? col : row);
  }
  __device__ int64_t offset(int64_t channel, int64_t row, int64_t col) const {
    int64_t n = kTransposed ? row : col;
    const int64_t pixel = area.split(n);
    return n * strides.n + channel * strides.c + pixel * strides.w;
  }
};

}  // namespace fastdl::cuda
