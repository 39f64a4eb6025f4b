// y[n, k, p] = bias[k] + sum_{c, i, j} weight[k, c, i, j] x[n, c, p * stride + (i, j) * dilation]
//
// Direct convolution: lanes run over the output channels, and elements of x are broadcast from
// padded copies (TapRows) of what a block reads. No patch is packed, and outputs of different rows
// and images fill a tile. The sums lie with the channels innermost; the channels of x are added a
// few at a time, so that the weights in use stay in L1, and in the end the sums are transposed into
// y. The weight is packed once a call.
//
// The gradient of x is a convolution of dy. With a stride s, its elements s * u + a read the taps
// i with i % s = a alone: these phases are convolutions with stride 1 of the same copies.
#include <string.h>

#include "core/apply_epilogue.h"
#include "core/gemm.h"
#include "kernels/conv2d_layout.h"
#include "kernels/conv2d_tile.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kDepth = 128;          // products summed in registers: bounds the error
constexpr int64_t kBytes = 256 * 1024;   // of the sums of a block, and of its copies
constexpr int64_t kMaxOutputs = 1024;    // of a block and one channel
constexpr int64_t kMinBlocks = 8;        // with fewer, output channels are divided too
constexpr double kBlockFlops = 2e6;      // some 10 us
constexpr int64_t kGrain = 65536;        // elements to pack, some 10 us
constexpr int64_t kMaxRanges = 64;       // of blocks, each with scratch memory of its own
constexpr int64_t kWriteAfter = 112;     // elements: whole tiles and whole vectors
constexpr int64_t kStream = 16ll << 20;  // bytes of y that are written past the caches

// Outputs up * u + phase - shift, with phase < up, read around place u of the padded copies.
struct Geometry {
  Conv2dSizes copies;  // out: how many u there are
  HeightWidth out, up, shift;
  bool gradient;

  int64_t phases() const { return up.area(); }
};

Geometry forward_geometry(const Conv2dSizes& s) { return {s, s.out, {1, 1}, {0, 0}, false}; }

// h + padding = s * u + a reads dy at u - i / s for the taps i with i % s = a.
Geometry gradient_geometry(const Conv2dSizes& s) {
  Conv2dSizes t = s;
  const auto axis = [](int64_t in, int64_t stride, int64_t padding, int64_t* kernel,
                       int64_t* dilation, int64_t* out, int64_t* pad) {
    *kernel = ceil_div(*kernel, stride);
    if (stride > 1) *dilation = 1;
    *out = (in - 1 + padding) / stride - padding / stride + 1;
    *pad = *dilation * (*kernel - 1) - padding / stride;
  };
  axis(s.in.h, s.stride.h, s.padding.h, &t.kernel.h, &t.dilation.h, &t.out.h, &t.padding.h);
  axis(s.in.w, s.stride.w, s.padding.w, &t.kernel.w, &t.dilation.w, &t.out.w, &t.padding.w);
  t.channels = s.out_channels;
  t.out_channels = s.channels;
  t.in = s.out;
  t.stride = {1, 1};
  return {t, s.in, s.stride, {s.padding.h % s.stride.h, s.padding.w % s.stride.w}, true};
}

// The taps of the weight, one phase after the other.
class Taps {
 public:
  Taps(const Geometry& g, HeightWidth kernel)
      : kernel_(kernel), first_(g.phases() + 1), taps_(kernel.area()) {
    int64_t count = 0;
    for (int64_t phase = 0; phase < g.phases(); ++phase) {
      first_.data()[phase] = count;
      for (int64_t tap = 0; tap < kernel.area(); ++tap) {
        if (tap / kernel.w % g.up.h * g.up.w + tap % kernel.w % g.up.w == phase) {
          taps_.data()[count++] = tap;
        }
      }
    }
    first_.data()[g.phases()] = count;
  }
  int64_t first(int64_t phase) const { return first_.data()[phase]; }
  int64_t count(int64_t phase) const { return first(phase + 1) - first(phase); }
  // The tap in the weight of the i-th.
  int64_t operator[](int64_t i) const { return taps_.data()[i]; }
  // Where it reads, in taps of the copies.
  HeightWidth place(int64_t i, const Geometry& g) const {
    const HeightWidth tap{taps_.data()[i] / kernel_.w, taps_.data()[i] % kernel_.w};
    if (!g.gradient) return tap;
    return {g.copies.kernel.h - 1 - tap.h / g.up.h, g.copies.kernel.w - 1 - tap.w / g.up.w};
  }
  // Calls visit(i, row) for all taps, whose rows lie by phase, channel of `channels`, and tap.
  template <typename Visit>
  void for_each_row(int64_t channels, int64_t channel, int64_t phases, Visit&& visit) const {
    for (int64_t phase = 0; phase < phases; ++phase) {
      for (int64_t i = 0; i < count(phase); ++i) {
        visit(first(phase) + i, first(phase) * channels + channel * count(phase) + i);
      }
    }
  }

 private:
  HeightWidth kernel_;
  Workspace<int64_t> first_, taps_;
};

// The rows of direct_tile: for each group and each `width` output channels a strip, in it the
// phases, in these the channels, in these the taps.
template <typename T>
class PackedWeight {
 public:
  PackedWeight(const T* weight, const Geometry& g, const Taps& taps, int64_t area)
      : taps_(taps),
        channels_(g.copies.group_channels()),
        strips_(ceil_div(g.copies.group_out_channels(), kWidth)),
        strip_size_(kWidth * (channels_ * area + Vec<T>::lanes)),
        data_(g.copies.groups * strips_ * strip_size_) {
    const int64_t outs = g.copies.group_out_channels();
    parallel_ranges(
        g.copies.groups * strips_, kGrain / strip_size_ + 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t group = i / strips_, k0 = i % strips_ * kWidth;
            const auto count = static_cast<int>(smaller(kWidth, outs - k0));
            T* strip = data_.data() + i * strip_size_;
            if (!g.gradient) {
              pack(strip, {weight + (group * outs + k0) * channels_ * area, channels_ * area, 1},
                   count, channels_ * area);
            } else {
              const T* from = weight + (group * channels_ * outs + k0) * area;
              pack_gradient(strip, from, outs, count, area, g.phases());
            }
          }
        });
  }
  // From a channel on, of a phase.
  const T* rows(int64_t group, int64_t strip, int vectors, int64_t phase, int64_t channel) const {
    return data_.data() + (group * strips_ + strip) * strip_size_ +
           (taps_.first(phase) * channels_ + channel * taps_.count(phase)) * vectors *
               Vec<T>::lanes;
  }

 private:
  static constexpr int kWidth = DirectTile<T>::width;

  static void pack(T* strip, Matrix<T> matrix, int count, int64_t depth) {
    if (tile_vectors<T>(count) == 1) {
      pack_strip<Vec<T>::lanes>(strip, matrix, count, depth);
    } else {
      pack_strip<kWidth>(strip, matrix, count, depth);
    }
  }
  // weight (channels, outs, taps), from output channel k0 on.
  void pack_gradient(T* strip, const T* from, int64_t outs, int count, int64_t area,
                     int64_t phases) const {
    const int64_t width = tile_vectors<T>(count) * Vec<T>::lanes;
    const Workspace<T> taps(width * (area + Vec<T>::lanes));
    for (int64_t c = 0; c < channels_; ++c) {
      pack(taps.data(), {from + c * outs * area, area, 1}, count, area);
      taps_.for_each_row(channels_, c, phases, [&](int64_t i, int64_t row) {
        memcpy(strip + row * width, taps.data() + taps_[i] * width,
               static_cast<size_t>(width) * sizeof(T));
      });
    }
  }

  const Taps& taps_;
  int64_t channels_, strips_, strip_size_;
  Workspace<T> data_;
};

// The tiles of a block: a band of outputs of some images.
template <typename T>
class Tiles {
 public:
  Tiles(const Geometry& g, const Bands& bands, const TapRows<T>& layout, int64_t images,
        int64_t image_step)
      : g_(g),
        bands_(bands),
        layout_(layout),
        image_step_(image_step),
        first_(g.phases() + 1),
        from_(images * bands.size.area() * g.phases() + g.phases() * kElements),
        place_(images * bands.size.area() * g.phases() + g.phases() * kElements) {}

  void set(int64_t band, int64_t images) {
    if (band == band_ && images == images_) return;
    band_ = band;
    images_ = images;
    const HeightWidth u = bands_.first(band);
    const auto range = [](int64_t u, int64_t size, int64_t up, int64_t shift, int64_t out,
                          int64_t* begin, int64_t* length) {
      *begin = larger(up * u - shift, 0);
      *length = smaller(up * (u + size) - shift, out) - *begin;
    };
    range(u.h, bands_.size.h, g_.up.h, g_.shift.h, g_.out.h, &begin.h, &size.h);
    range(u.w, bands_.size.w, g_.up.w, g_.shift.w, g_.out.w, &begin.w, &size.w);
    int64_t count = 0;
    for (int64_t phase = 0; phase < g_.phases(); ++phase) {
      first_.data()[phase] = count;
      for (int64_t image = 0; image < images; ++image) count = add(count, image, phase, u);
      while (count % kElements > 0) {  // a place behind all outputs takes the rest of a tile
        from_.data()[count] = 0;
        place_.data()[count++] = images * size.area();
      }
    }
    first_.data()[g_.phases()] = count;
  }
  template <typename Visit>
  void for_each(int64_t phase, Visit&& visit) const {
    for (int64_t i = first_.data()[phase]; i < first_.data()[phase + 1]; i += kElements) {
      visit(TileElements<T>{from_.data() + i, place_.data() + i});
    }
  }

  HeightWidth begin{}, size{};  // of the outputs

 private:
  static constexpr int kElements = DirectTile<T>::elements;

  int64_t add(int64_t count, int64_t image, int64_t phase, HeightWidth u) {
    const auto first = [](int64_t begin, int64_t phase, int64_t shift, int64_t up) {
      const int64_t behind = (begin + shift - phase) % up;
      return behind > 0 ? begin + up - behind : begin - behind;
    };
    const int64_t h0 = first(begin.h, phase / g_.up.w, g_.shift.h, g_.up.h);
    const int64_t w0 = first(begin.w, phase % g_.up.w, g_.shift.w, g_.up.w);
    const int64_t column = (w0 + g_.shift.w) / g_.up.w - u.w;
    for (int64_t h = h0; h < begin.h + size.h; h += g_.up.h) {
      const int64_t row = (h + g_.shift.h) / g_.up.h - u.h;
      int64_t from = image * image_step_ + row * layout_.out_step() + column;
      int64_t place = (image * size.h + h - begin.h) * size.w + w0 - begin.w;
      for (int64_t w = w0; w < begin.w + size.w; w += g_.up.w, place += g_.up.w) {
        from_.data()[count] = from++;
        place_.data()[count++] = place;
      }
    }
    return count;
  }

  const Geometry& g_;
  const Bands& bands_;
  const TapRows<T>& layout_;
  int64_t image_step_, band_ = -1, images_ = 0;
  Workspace<int64_t> first_, from_, place_;
};

// y[k, p] = bias[k] + sums[p, k] for some channels of `count` outputs that lie in a line.
template <typename T>
void write_planes(T* y, int64_t plane, const T* sums, int64_t count, int64_t channels,
                  const T* bias, bool past_caches) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t width = tile_vectors<T>(channels) * lanes;
  past_caches =
      past_caches && reinterpret_cast<uintptr_t>(y) % sizeof(Vec<T>) == 0 && plane % lanes == 0;
  for (int64_t k = 0; k < channels; k += lanes) {
    const auto rows = static_cast<int>(smaller(lanes, channels - k));
    for_each_transposed(sums + k, width, count, [&](int64_t p, int n, const Vec<T>* v) {
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) {
        if (r >= rows) break;
        const Vec<T> sum = bias ? broadcast(bias[k + r]) + v[r] : v[r];
        T* to = y + (k + r) * plane + p;
        if (past_caches && n == lanes) {
          stream(to, sum);
        } else {
          store(to, sum, n);
        }
      }
    });
  }
}

// How the work is cut into blocks: a band of some images, and some strips of output channels.
template <typename T>
struct Plan {
  int64_t strips, depth_channels;
  Bands bands;
  TapRows<T> layout;
  int64_t images, parts, part;

  int64_t outputs(const Geometry& g) const {
    const Conv2dSizes& s = g.copies;
    const int64_t read = smaller(s.stride.area(), s.kernel.area()) * depth_channels;
    const int64_t size =
        larger(strips * DirectTile<T>::width * g.phases(), read) * int64_t{sizeof(T)};
    return larger(smaller(kBytes / size, kMaxOutputs / g.phases()), 2 * DirectTile<T>::elements);
  }

  explicit Plan(const Geometry& g)
      : strips(ceil_div(g.copies.group_out_channels(), DirectTile<T>::width)),
        depth_channels(
            larger(smaller(g.copies.group_channels(), kDepth / g.copies.kernel.area()), 1)),
        bands(g.copies.out, outputs(g)),
        layout(g.copies, bands.size),
        images(bands.count > 1
                   ? 1
                   : larger(smaller(outputs(g) / bands.size.area(), g.copies.batch), 1)) {
    const int64_t areas = g.copies.groups * bands.count * ceil_div(g.copies.batch, images);
    parts = areas < kMinBlocks ? smaller(strips, ceil_div(kMinBlocks, areas)) : 1;
    part = ceil_div(strips, parts);
  }
};

template <typename T>
class Convolution {
 public:
  Convolution(T* y, const T* x, const T* weight, const T* bias, const Geometry& g,
              HeightWidth kernel, const Epilogue<T>& epilogue)
      : y_(y),
        x_(x),
        bias_(bias),
        epilogue_(epilogue),
        g_(g),
        s_(g_.copies),
        taps_(g, kernel),
        weight_(weight, g, taps_, kernel.area()),
        plan_(g),
        offsets_(plan_.depth_channels * kernel.area()),
        image_step_(plan_.depth_channels * plan_.layout.plane()),
        sums_size_((plan_.images * plan_.bands.size.area() * g.phases() + 1) * kWidth),
        past_caches_(epilogue.empty() &&
                     s_.batch * s_.out_channels * g.out.area() * int64_t{sizeof(T)} >= kStream) {
    const TapRows<T>& layout = plan_.layout;
    for (int64_t c = 0; c < plan_.depth_channels; ++c) {
      taps_.for_each_row(plan_.depth_channels, c, g.phases(), [&](int64_t i, int64_t row) {
        const HeightWidth place = taps_.place(i, g);
        offsets_.data()[row] =
            c * layout.plane() + place.h * layout.tap_step() + layout.columns()[place.w];
      });
    }
  }

  void run() const {
    const int64_t batches = ceil_div(s_.batch, plan_.images);
    const int64_t blocks = batches * s_.groups * plan_.bands.count * plan_.parts;
    const double products = static_cast<double>(s_.taps() + 1) / static_cast<double>(g_.phases());
    const double flops = 2 * static_cast<double>(sums_size_ * plan_.part) * products;
    const auto grain = larger(static_cast<int64_t>(kBlockFlops / flops) + 1, blocks / kMaxRanges);
    parallel_ranges(blocks, grain, [&](int64_t begin, int64_t end) {
      const Workspace<T> copies(plan_.layout.scratch(plan_.images * plan_.depth_channels));
      const Workspace<T> sums(plan_.part * sums_size_);
      Tiles<T> tiles(g_, plan_.bands, plan_.layout, plan_.images, image_step_);
      for (int64_t i = begin; i < end; ++i) run(block(i), tiles, copies.data(), sums.data());
    });
  }

 private:
  static constexpr int64_t kWidth = DirectTile<T>::width;

  // Some images from n on of a group, a band of each, and some strips of output channels.
  struct Block {
    int64_t n, images, group, band, strip, strips;
  };

  Block block(int64_t index) const {
    const int64_t strip = index % plan_.parts * plan_.part, band = index / plan_.parts;
    const int64_t batch = band / plan_.bands.count, n = batch / s_.groups * plan_.images;
    return {n,
            smaller(plan_.images, s_.batch - n),
            batch % s_.groups,
            band % plan_.bands.count,
            strip,
            smaller(plan_.part, plan_.strips - strip)};
  }

  void run(const Block& block, Tiles<T>& tiles, T* copies, T* sums) const {
    const int64_t channels = s_.group_channels();
    tiles.set(block.band, block.images);
    for (int64_t c = 0; c == 0 || c < channels; c += plan_.depth_channels) {
      const int64_t count = smaller(plan_.depth_channels, channels - c);
      for (int64_t i = 0; i < block.images * count; ++i) {
        const int64_t image = i / count, plane = block.group * channels + c + i % count;
        plan_.layout.fill(copies + image * image_step_ + i % count * plan_.layout.plane(),
                          x_ + ((block.n + image) * s_.channels + plane) * s_.in.area(),
                          plan_.bands.first(block.band));
      }
      for (int64_t i = 0; i < block.strips; ++i) {
        add(block, tiles, copies, sums + i * sums_size_, block.strip + i, c, count);
      }
    }
  }

  // Adds `count` channels from c on to the sums of a strip, and writes them out after the last.
  void add(const Block& block, const Tiles<T>& tiles, const T* copies, T* sums, int64_t strip,
           int64_t c, int64_t count) const {
    const int vectors = tile_vectors<T>(s_.group_out_channels() - strip * kWidth);
    const auto tile = vectors == 1 ? direct_tile<T, 1> : direct_tile<T, 2>;
    const bool last = c + count >= s_.group_channels();
    // Stores past the caches drain while the next tiles are computed.
    const bool early = last && past_caches_ && g_.phases() == 1;
    int64_t written = 0, ready = 0;
    for (int64_t phase = 0; phase < g_.phases(); ++phase) {
      const T* rows = weight_.rows(block.group, strip, vectors, phase, c);
      const int64_t* offsets = offsets_.data() + taps_.first(phase) * plan_.depth_channels;
      tiles.for_each(phase, [&](TileElements<T> elements) {
        tile(sums, c > 0, copies, elements, rows, offsets, count * taps_.count(phase));
        ready += DirectTile<T>::elements;
        if (early && ready - written >= kWriteAfter) {
          write(block, tiles, sums, strip, written, written + kWriteAfter);
          written += kWriteAfter;
        }
      });
    }
    if (last) write(block, tiles, sums, strip, written, block.images * tiles.size.area());
  }

  // Writes outputs begin..end-1 of a block.
  void write(const Block& block, const Tiles<T>& tiles, const T* sums, int64_t strip, int64_t begin,
             int64_t end) const {
    const int64_t k = block.group * s_.group_out_channels() + strip * kWidth;
    const int64_t channels = smaller(kWidth, s_.group_out_channels() - strip * kWidth);
    const int64_t width = tile_vectors<T>(channels) * Vec<T>::lanes, plane = g_.out.area();
    const bool rows = tiles.size.w == g_.out.w;  // whole rows lie in a line
    const int64_t line = rows ? tiles.size.area() : tiles.size.w;
    while (begin < end) {
      const int64_t count = smaller(end, (begin / line + 1) * line) - begin;
      const int64_t n = block.n + begin / tiles.size.area(), at = begin % tiles.size.area();
      const int64_t row = at / tiles.size.w, column = at % tiles.size.w;
      T* to = y_ + (n * s_.out_channels + k) * plane + (tiles.begin.h + row) * g_.out.w +
              tiles.begin.w + column;
      write_planes(to, plane, sums + begin * width, count, channels, bias_ ? bias_ + k : nullptr,
                   past_caches_);
      apply_epilogue(to, plane, channels, count, epilogue_.at(to - y_));
      begin += count;
    }
  }

  T* y_;
  const T *x_, *bias_;
  Epilogue<T> epilogue_;
  Geometry g_;
  const Conv2dSizes& s_;
  Taps taps_;
  PackedWeight<T> weight_;
  Plan<T> plan_;
  Workspace<int64_t> offsets_;
  int64_t image_step_, sums_size_;
  bool past_caches_;
};

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  Convolution<T>(y, x, weight, bias, forward_geometry(s), s.kernel, epilogue).run();
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  Convolution<T>(dx, dy, weight, nullptr, gradient_geometry(s), s.kernel, {}).run();
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dDirectKernels, conv2d_direct_kernels, forward<T>, input_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
