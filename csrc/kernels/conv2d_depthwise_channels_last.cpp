// conv2d with one channel a group, of images with the channels last: the lanes run along the
// channels, of which every pixel has a run.
//
//     sum[u, :] = sum over taps t of weight[t, :] * data[t, u, :]
//
// A line of sums u = 0, 1, .. is a row of y, or every stride-th element of a row of dx: all of them
// meet the same taps, each `step` further on, but where a tap lies beyond the edge. Four at a time
// they share a load of the weight. The gradient of the weight goes along the lines of y likewise:
// a load and a store of its sums for four products.
#include "kernels/conv2d_depthwise_channels_last.h"

#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/parallel.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int kTile = 4;
constexpr int64_t kProducts = 1 << 18;  // some 10 us
constexpr int64_t kSummed = 512;        // products added in T, before they go on in double
constexpr int64_t kMinBlocks = 16;

// Of the sums of a line, `begin` to `end` - 1 have the tap.
template <typename T>
struct Tap {
  const T* data;  // of sum 0
  int64_t index;  // in the window
  int64_t begin, end;
};

template <typename T>
class Line {
 public:
  FASTDL_INLINE Line(const Conv2dSizes& s) : s_(s), taps_(s.kernel.area()) {}

  // Row `row` of y[n], whose taps read x.
  FASTDL_INLINE void set_forward(const T* x, int64_t n, int64_t row) {
    set(s_.out.w, s_.stride.w * s_.channels);
    for (int64_t i = 0; i < s_.kernel.h; ++i) {
      const int64_t r = row * s_.stride.h + i * s_.dilation.h - s_.padding.h;
      if (r < 0 || r >= s_.in.h) continue;
      for (int64_t j = 0; j < s_.kernel.w; ++j) {
        const int64_t column = j * s_.dilation.w - s_.padding.w;
        const int64_t begin = column < 0 ? ceil_div(-column, s_.stride.w) : 0;
        const int64_t room = s_.in.w - column;
        add({x + ((n * s_.in.h + r) * s_.in.w + column) * s_.channels, i * s_.kernel.w + j, begin,
             room > 0 ? smaller(s_.out.w, ceil_div(room, s_.stride.w)) : 0});
      }
    }
  }

  // The elements phase, phase + stride, .. of row `row` of dx[n], whose taps read dy.
  FASTDL_INLINE void set_gradient(const T* dy, int64_t n, int64_t row, int64_t phase) {
    set(ceil_div(s_.in.w - phase, s_.stride.w), s_.channels);
    for (int64_t i = 0; i < s_.kernel.h; ++i) {
      const int64_t down = row + s_.padding.h - i * s_.dilation.h, r = down / s_.stride.h;
      if (down < 0 || down % s_.stride.h != 0 || r >= s_.out.h) continue;
      for (int64_t j = 0; j < s_.kernel.w; ++j) {
        const int64_t across = phase + s_.padding.w - j * s_.dilation.w;
        if (across % s_.stride.w != 0) continue;
        const int64_t column = across / s_.stride.w;
        add({dy + ((n * s_.out.h + r) * s_.out.w + column) * s_.channels, i * s_.kernel.w + j,
             larger(0, -column), smaller(length_, s_.out.w - column)});
      }
    }
  }

  // body.operator()<count>(u) for `count` sums from u on, all of whose taps are inside if it is
  // more than one.
  template <typename Body>
  FASTDL_INLINE void for_each_tile(Body&& body) const {
    int64_t u = 0;
    while (u < length_) {
      if (u >= begin_ && u + kTile <= end_) {
        body.template operator()<kTile>(u);
        u += kTile;
      } else {
        body.template operator()<1>(u++);
      }
    }
  }

  // visit(tap, where its data for sum u begins) for the taps of a tile.
  template <int count, typename Visit>
  FASTDL_INLINE void for_each_tap(int64_t u, Visit&& visit) const {
    for (int64_t t = 0; t < count_; ++t) {
      const Tap<T>& tap = taps_.data()[t];
      if (count > 1 || (u >= tap.begin && u < tap.end)) visit(tap, tap.data + u * step_);
    }
  }

  FASTDL_INLINE int64_t length() const { return length_; }
  FASTDL_INLINE int64_t step() const { return step_; }

 private:
  FASTDL_INLINE void set(int64_t length, int64_t step) {
    length_ = end_ = length;
    step_ = step;
    begin_ = count_ = 0;
  }
  FASTDL_INLINE void add(const Tap<T>& tap) {
    if (tap.begin >= tap.end) return;
    taps_.data()[count_++] = tap;
    begin_ = larger(begin_, tap.begin);
    end_ = smaller(end_, tap.end);
  }

  Conv2dSizes s_;
  Workspace<Tap<T>> taps_;
  int64_t length_ = 0, step_ = 0, count_ = 0, begin_ = 0, end_ = 0;
};

// The sums of a line, each `distance` after the one before it; weight: (kernel, channels).
template <typename T>
FASTDL_INLINE void write_line(T* to, int64_t distance, const Line<T>& line, const T* weight,
                              const T* start, int64_t channels) {
  line.for_each_tile([&]<int count>(int64_t u) FASTDL_INLINE_LAMBDA {
    for_each_vec<T>(channels, [&](int64_t c, int lanes) FASTDL_INLINE_LAMBDA {
      Vec<T> sum[count];
      const Vec<T> first = start ? load(start + c, lanes) : zero<T>();
#pragma GCC unroll 4
      for (int k = 0; k < count; ++k) sum[k] = first;
      line.template for_each_tap<count>(
          u, [&](const Tap<T>& tap, const T* data) FASTDL_INLINE_LAMBDA {
            const Vec<T> factor = load(weight + tap.index * channels + c, lanes);
#pragma GCC unroll 4
            for (int k = 0; k < count; ++k) {
              sum[k] = fma(factor, load(data + k * line.step() + c, lanes), sum[k]);
            }
          });
#pragma GCC unroll 4
      for (int k = 0; k < count; ++k) store(to + (u + k) * distance + c, sum[k], lanes);
    });
  });
}

// (kernel, channels) of (channels, kernel).
template <typename T>
void transpose_weight(T* to, const T* weight, const Conv2dSizes& s) {
  const int64_t taps = s.kernel.area();
  for (int64_t t = 0; t < taps; ++t) {
    for (int64_t c = 0; c < s.channels; ++c) to[t * s.channels + c] = weight[c * taps + t];
  }
}

FASTDL_INLINE int64_t grain_of(const Conv2dSizes& s, int64_t width) {
  return kProducts / (width * s.channels * s.kernel.area()) + 1;
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  const Workspace<T> factors(s.out_channels * s.kernel.area());
  transpose_weight(factors.data(), weight, s);
  const int64_t size = s.out.w * s.channels;
  parallel_ranges(s.batch * s.out.h, grain_of(s, s.out.w), [&](int64_t begin, int64_t end) {
    Line<T> line(s);
    for (int64_t k = begin; k < end; ++k) {
      line.set_forward(x, k / s.out.h, k % s.out.h);
      write_line(y + k * size, s.channels, line, factors.data(), bias, s.channels);
      apply_epilogue(y + k * size, size, 1, size, epilogue.at(k * size));
    }
  });
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  const Workspace<T> factors(s.channels * s.kernel.area());
  transpose_weight(factors.data(), weight, s);
  parallel_ranges(s.batch * s.in.h, grain_of(s, s.in.w), [&](int64_t begin, int64_t end) {
    Line<T> line(s);
    for (int64_t k = begin; k < end; ++k) {
      T* row = dx + k * s.in.w * s.channels;
      for (int64_t phase = 0; phase < smaller(s.stride.w, s.in.w); ++phase) {
        line.set_gradient(dy, k / s.in.h, k % s.in.h, phase);
        write_line(row + phase * s.channels, s.stride.w * s.channels, line, factors.data(),
                   static_cast<const T*>(nullptr), s.channels);
      }
    }
  });
}

// sums[tap, :] += dy * x for the products of a line of y, and behind the taps those of dy alone.
template <typename T>
FASTDL_INLINE void add_line(T* sums, const T* dy, const Line<T>& line, const Conv2dSizes& s) {
  line.for_each_tile([&]<int count>(int64_t u) FASTDL_INLINE_LAMBDA {
    for_each_vec<T>(s.channels, [&](int64_t c, int lanes) FASTDL_INLINE_LAMBDA {
      Vec<T> g[count];
#pragma GCC unroll 4
      for (int k = 0; k < count; ++k) g[k] = load(dy + (u + k) * s.channels + c, lanes);
      line.template for_each_tap<count>(
          u, [&](const Tap<T>& tap, const T* data) FASTDL_INLINE_LAMBDA {
            T* to = sums + tap.index * s.channels + c;
            Vec<T> sum = load(to, lanes);
#pragma GCC unroll 4
            for (int k = 0; k < count; ++k) {
              sum = fma(g[k], load(data + k * line.step() + c, lanes), sum);
            }
            store(to, sum, lanes);
          });
      T* to = sums + s.kernel.area() * s.channels + c;
      Vec<T> sum = load(to, lanes);
#pragma GCC unroll 4
      for (int k = 0; k < count; ++k) sum += g[k];
      store(to, sum, lanes);
    });
  });
}

template <typename T>
void weight_gradient(T* dweight, T* dbias, const T* dy, const T* x, const Conv2dSizes& s) {
  const int64_t lines = s.batch * s.out.h, taps = s.kernel.area();
  const int64_t size = (taps + 1) * s.channels;
  const int64_t summed = kSummed / s.out.w + 1, shared = ceil_div(lines, kMinBlocks);
  const int64_t lines_per_block = larger(1, smaller(summed, shared));
  const int64_t blocks = ceil_div(lines, lines_per_block);
  const Workspace<T> sums(blocks * size);
  parallel_for(blocks, [&](int64_t block) {
    T* to = sums.data() + block * size;
    for (int64_t i = 0; i < size; ++i) to[i] = 0;
    Line<T> line(s);
    const int64_t end = smaller(lines, (block + 1) * lines_per_block);
    for (int64_t k = block * lines_per_block; k < end; ++k) {
      line.set_forward(x, k / s.out.h, k % s.out.h);
      add_line(to, dy + k * s.out.w * s.channels, line, s);
    }
  });
  parallel_ranges(size, kProducts / (blocks + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double total = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        total += static_cast<double>(sums.data()[block * size + i]);
      }
      const int64_t tap = i / s.channels, c = i % s.channels;
      T* to = tap == taps ? dbias : dweight;
      if (to) to[tap == taps ? c : c * taps + tap] = static_cast<T>(total);
    }
  });
}

template <typename T>
void backward(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
              const Conv2dSizes& s) {
  if (dx) input_gradient(dx, dy, weight, s);
  if (dweight || dbias) weight_gradient(dweight, dbias, dy, x, s);
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dDepthwiseChannelsLastKernels, conv2d_depthwise_channels_last_kernels,
                      forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
