// conv2d with few channels a group: too few to make matrix products of them.
//
// A band of the group's planes is copied with its padding (TapRows), the columns modulo the stride
// apart; the lanes run along the width, several rows and output channels at once
// (conv2d_grouped.h). The gradient of x is, for each row and column modulo the stride, such a
// convolution of dy with the taps that reach it, flipped. The gradient of the weight multiplies
// rows of dy with the rows under each tap; its sums stay in vectors from band to band and go on in
// double every kMaxVectors additions. A plane's gradients come one after the other, dy in L2.
#include "kernels/conv2d_grouped.h"

#include <memory>
#include <vector>

#include "core/apply_epilogue.h"
#include "core/reduce.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kBandElements = 8192;  // of x: 32 KB of float32
constexpr int64_t kMinOutputs = 256;
constexpr int64_t kMaxVectors = 256;
constexpr int64_t kMinBlocks = 16;
constexpr double kBlockFlops = 3e5;  // some 10 us

// The largest of 4, 2, 1 output channels at once that divides `outs`.
template <int MOST>
int64_t outputs_at_once(int64_t outs) {
  int64_t at_once = MOST;
  while (outs % at_once != 0) at_once /= 2;
  return at_once;
}

// run<K, S, O>() as conv2d_grouped.h means them.
template <int MOST, typename T, typename Run>
void with_window(HeightWidth kernel, const TapRows<T>& layout, int64_t at_once, Run&& run) {
  const auto with_outputs = [&]<int K, int S>() {
    if constexpr (MOST >= 4) {
      if (at_once == 4) return run.template operator()<K, S, 4>();
    }
    if constexpr (MOST >= 2) {
      if (at_once == 2) return run.template operator()<K, S, 2>();
    }
    run.template operator()<K, S, 1>();
  };
  const bool one = layout.out_step() == layout.tap_step();
  const bool two = layout.out_step() == 2 * layout.tap_step();
  if (kernel.h == 3 && one) return with_outputs.template operator()<3, 1>();
  if (kernel.h == 3 && two) return with_outputs.template operator()<3, 2>();
  if (kernel.h == 5 && one) return with_outputs.template operator()<5, 1>();
  with_outputs.template operator()<1, 1>();
}

int64_t most_outputs(const Conv2dSizes& s) {
  return larger(kBandElements / s.group_channels() / s.stride.h / s.stride.w, kMinOutputs);
}

template <typename T>
class Convolution {
 public:
  // factor(k, c, i, j): what tap (i, j) of channel c of its group counts for output channel k.
  template <typename Factor>
  Convolution(const Conv2dSizes& s, Factor&& factor)
      : bands(s.out, most_outputs(s)),
        layout(s, bands.size, Vec<T>::lanes),
        s_(s),
        at_once_(outputs_at_once<kMost>(s.group_out_channels())),
        weight_(s.out_channels * s.taps()) {
    const int64_t grain = kBlockElements / (at_once_ * s.taps() + 1) + 1;
    parallel_ranges(s.out_channels / at_once_, grain, [&](int64_t begin, int64_t end) {
      T* to = weight_.data() + begin * at_once_ * s.taps();
      for (int64_t strip = begin; strip < end; ++strip) {
        for (int64_t c = 0; c < s.group_channels(); ++c) {
          for (int64_t j = 0; j < s.kernel.w; ++j) {
            for (int64_t i = 0; i < s.kernel.h; ++i) {
              for (int64_t k = 0; k < at_once_; ++k) *to++ = factor(strip * at_once_ + k, c, i, j);
            }
          }
        }
      }
    });
  }

  const Bands bands;
  const TapRows<T> layout;

  int64_t scratch() const { return layout.scratch(s_.group_channels()); }
  int64_t cost() const { return bands.size.area() * (4 + s_.group_out_channels() * s_.taps() / 4); }
  void surround(T* scratch, int64_t band) const {
    for (int64_t c = 0; c < s_.group_channels(); ++c) {
      layout.surround(scratch + c * layout.plane(), bands.first(band), T(0));
    }
  }
  // x: the planes of all groups; group: of the batch.
  void copy(T* scratch, const T* x, int64_t group, int64_t band) const {
    for (int64_t c = 0; c < s_.group_channels(); ++c) {
      const T* plane = x + (group * s_.group_channels() + c) * s_.in.area();
      layout.copy(scratch + c * layout.plane(), plane, bands.first(band));
      layout.prefetch_next(plane, bands.first(band));
    }
  }
  // emit(k, row, column, lanes, sums) for the outputs of the band and the channels k of the group.
  template <typename Emit>
  void run(const T* scratch, int64_t group, int64_t band, const T* bias, Emit&& emit) const {
    const int64_t outs = s_.group_out_channels(), first = group % s_.groups * outs;
    const T zeros[kMost] = {};
    with_window<kMost>(s_.kernel, layout, at_once_, [&]<int K, int S, int O>() {
      for (int64_t k0 = 0; k0 < outs; k0 += O) {
        convolve_rows<K, S, O, rows_at_once<K, O>()>(
            scratch, s_.group_channels(), s_.kernel, weight_.data() + (first + k0) * s_.taps(),
            bias ? bias + first + k0 : zeros, layout, 0, outputs_of(bands, band),
            [&](int64_t row, int64_t w, int lanes, int64_t k, Vec<T> sum)
                __attribute__((always_inline)) { emit(k0 + k, row, w, lanes, sum); });
      }
    });
  }

 private:
  static constexpr int kMost = kVecRegisters == 32 ? 4 : 2;
  Conv2dSizes s_;
  int64_t at_once_;
  Workspace<T> weight_;  // (out_channels / at_once, channels, kernel.w, kernel.h, at_once)
};

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  const Convolution<T> c(s, [&](int64_t k, int64_t channel, int64_t i, int64_t j) {
    return weight[k * s.taps() + (channel * s.kernel.h + i) * s.kernel.w + j];
  });
  const int64_t outs = s.group_out_channels(), pixels = s.out.area();
  for_each_band<T>(
      s.batch * s.groups, c.bands, c.scratch(), c.cost(),
      [&](T* scratch, int64_t band) { c.surround(scratch, band); },
      [&](T* scratch, int64_t group, int64_t band) { c.copy(scratch, x, group, band); },
      [&](const T* scratch, int64_t group, int64_t band) {
        T* to = y + group * outs * pixels + c.bands.offset(band);
        c.run(scratch, group, band, bias,
              [&](int64_t k, int64_t row, int64_t w, int lanes, Vec<T> sum)
                  __attribute__((always_inline)) {
                    T* at = to + k * pixels + row * s.out.w + w;
                    lanes == Vec<T>::lanes ? store(at, sum) : store(at, sum, lanes);
                  });
        apply_epilogue(to, pixels, outs, c.bands.outputs(band), epilogue.at(to - y));
      });
}

// The elements first, first + stride, ... of one axis of x, and the taps that reach them: they are
// first_tap, first_tap + tap_step, ..., and tap t of them reads, for the o-th element,
// dy[o + (taps - 1 - t) * dilation - padding].
struct Phase {
  int64_t first, count, taps, first_tap = 0, tap_step = 1, dilation = 1, padding = 0;

  Phase(int64_t first, int64_t in, int64_t kernel, int64_t stride, int64_t step, int64_t pad)
      : first(first), count((in - first - 1) / stride + 1), taps(0) {
    const int64_t element = first + pad, remainder = element % stride;
    while (first_tap < kernel && first_tap * step % stride != remainder) ++first_tap;
    if (first_tap == kernel) return;
    while (first_tap + tap_step < kernel && tap_step * step % stride != 0) ++tap_step;
    taps = (kernel - 1 - first_tap) / tap_step + 1;
    dilation = taps > 1 ? tap_step * step / stride : 1;
    padding = (first_tap * step - remainder) / stride + (taps - 1) * dilation - element / stride;
  }
};

template <typename T>
void store_apart(T* to, Vec<T> v, int lanes, int64_t step) {
  if (step == 1 && lanes == Vec<T>::lanes) return store(to, v);
  if (step == 1) return store(to, v, lanes);
  T values[Vec<T>::lanes];
  store(values, v);
  for (int i = 0; i < lanes; ++i) to[i * step] = values[i];
}

// dx at the rows and columns from a first on, the stride apart, of a group.
template <typename T>
class PhaseGradient {
 public:
  PhaseGradient(const Conv2dSizes& s, const T* weight, HeightWidth first)
      : s_(s),
        h_(first.h, s.in.h, s.kernel.h, s.stride.h, s.dilation.h, s.padding.h),
        w_(first.w, s.in.w, s.kernel.w, s.stride.w, s.dilation.w, s.padding.w),
        convolution_(sizes(), [&](int64_t c, int64_t k, int64_t i, int64_t j) {
          const int64_t group = c / s.group_channels(), channel = c % s.group_channels();
          const int64_t row = h_.first_tap + (h_.taps - 1 - i) * h_.tap_step;
          const int64_t column = w_.first_tap + (w_.taps - 1 - j) * w_.tap_step;
          return weight[(group * s.group_out_channels() + k) * s.taps() +
                        (channel * s.kernel.h + row) * s.kernel.w + column];
        }) {}

  int64_t scratch() const { return convolution_.scratch(); }
  // surrounded: whether the scratch memory still has what the last call of this phase laid there.
  void run(T* dx, const T* dy, int64_t group, T* scratch, bool surrounded) const {
    const Convolution<T>& c = convolution_;
    const int64_t step = s_.stride.w;
    for (int64_t band = 0; band < c.bands.count; ++band) {
      if (!surrounded || c.bands.count > 1) c.surround(scratch, band);
      if (h_.taps > 0 && w_.taps > 0) c.copy(scratch, dy, group, band);
      const HeightWidth at = c.bands.first(band);
      T* to = dx + group * s_.group_channels() * s_.in.area() +
              (h_.first + at.h * s_.stride.h) * s_.in.w + w_.first + at.w * step;
      c.run(scratch, group, band, nullptr,
            [&](int64_t k, int64_t row, int64_t w, int lanes, Vec<T> sum)
                __attribute__((always_inline)) {
                  store_apart(to + k * s_.in.area() + row * s_.stride.h * s_.in.w + w * step, sum,
                              lanes, step);
                });
    }
  }

 private:
  Conv2dSizes sizes() const {
    Conv2dSizes t = s_;
    t.channels = s_.out_channels;
    t.out_channels = s_.channels;
    t.in = s_.out;
    t.out = {h_.count, w_.count};
    t.kernel = {h_.taps, w_.taps};
    t.stride = {1, 1};
    t.dilation = {h_.dilation, w_.dilation};
    t.padding = {h_.padding, w_.padding};
    if (t.kernel.area() == 0) t.kernel = {0, 0};  // no tap reaches them
    return t;
  }

  Conv2dSizes s_;
  Phase h_, w_;
  Convolution<T> convolution_;
};

// run(scratch elements, gradient(dx, dy, group, scratch, whether scratch was used before)):
// dx of one group of channels of an image.
template <typename T, typename Run>
void with_input_gradient(const T* weight, const Conv2dSizes& s, Run&& run) {
  std::vector<std::unique_ptr<PhaseGradient<T>>> phases;
  int64_t scratch = 0;
  for (int64_t h = 0; h < smaller(s.stride.h, s.in.h); ++h) {
    for (int64_t w = 0; w < smaller(s.stride.w, s.in.w); ++w) {
      phases.push_back(std::make_unique<PhaseGradient<T>>(s, weight, HeightWidth{h, w}));
      scratch = larger(scratch, phases.back()->scratch());
    }
  }
  run(scratch, [&](T* dx, const T* dy, int64_t group, T* at, bool used) {
    for (const auto& phase : phases) phase->run(dx, dy, group, at, used && phases.size() == 1);
  });
}

// The sums of products for the weights of one group, and the sums of its dy.
template <typename T>
class WeightSums {
 public:
  explicit WeightSums(const Conv2dSizes& s)
      : s_(s),
        bands_(s.out, smaller(most_outputs(s), kMaxVectors * Vec<T>::lanes)),
        layout_(s, bands_.size, Vec<T>::lanes),
        at_once_(outputs_at_once<kMost>(s.group_out_channels())),
        weights_(s.group_out_channels() * s.taps()),
        sums_((weights_ + s.group_out_channels() + kMost) * Vec<T>::lanes),
        scratch_(layout_.scratch(s.group_channels())) {}

  // totals: (weights of the group) and (its outputs), in the order of `weights`.
  void start(double* totals) {
    totals_ = totals;
    for (int64_t i = 0; i < count(); ++i) {
      totals[i] = 0;
      sums()[i] = zero<T>();
    }
    added_ = 0;
  }
  void add(const T* dy, const T* x, int64_t group) {
    const int64_t channels = s_.group_channels();
    for (int64_t band = 0; band < bands_.count; ++band) {
      const HeightWidth first = bands_.first(band), outputs = outputs_of(bands_, band);
      for (int64_t c = 0; c < channels; ++c) {
        T* plane = scratch_.data() + c * layout_.plane();
        if (bands_.count > 1 || added_ == 0) layout_.surround(plane, first, T(0));
        layout_.copy(plane, x + (group * channels + c) * s_.in.area(), first);
      }
      const int64_t vectors = outputs.h * ceil_div(outputs.w, Vec<T>::lanes);
      if (added_ + vectors > kMaxVectors) flush();
      added_ += vectors;
      add_band(dy + group * s_.group_out_channels() * s_.out.area() + bands_.offset(band), outputs);
    }
  }
  void flush() {
    for (int64_t i = 0; i < count(); ++i) {
      totals_[i] += static_cast<double>(reduce_add(sums()[i]));
      sums()[i] = zero<T>();
    }
    added_ = 0;
  }
  int64_t count() const { return weights_ + s_.group_out_channels(); }
  // Where the totals hold the weight of tap (i, j) of channel c for output channel k.
  int64_t place(int64_t k, int64_t c, int64_t i, int64_t j) const {
    const int64_t column = (k / at_once_ * s_.group_channels() + c) * s_.kernel.w + j;
    return (column * s_.kernel.h + i) * at_once_ + k % at_once_;
  }

 private:
  static constexpr int kMost = kVecRegisters == 32 ? 2 : 1;

  Vec<T>* sums() { return reinterpret_cast<Vec<T>*>(sums_.data()); }

  void add_band(const T* dy, HeightWidth outputs) {
    with_window<kMost>(s_.kernel, layout_, at_once_, [&]<int K, int S, int O>() {
      constexpr int kRows = 4, kColumns = columns_at_once<K, O, kRows>();
      Vec<T>* to = sums();
      for (int64_t k = 0; k < s_.group_out_channels(); k += O) {
        const OutputRows<T> from{dy + k * s_.out.area(), s_.out.area(), s_.out.w};
        for (int64_t c = 0; c < s_.group_channels(); ++c) {
          const T* plane = scratch_.data() + c * layout_.plane();
          const auto add = [&]<int J>(int64_t j) {
            Vec<T> unused[O];
            for (Vec<T>& v : unused) v = zero<T>();
            Vec<T>* total = c == 0 && j == 0 ? sums() + weights_ + k : unused;
            for (int64_t t = 0; t < s_.kernel.h; t += K) {
              // K = 1: a row of taps at a time, whose sums lie kernel.h apart
              add_columns<K, S, O, J, kRows>(to, t, t == 0 ? total : unused, from, plane, j,
                                             outputs);
            }
            to += J * s_.kernel.h * O;
          };
          int64_t j = 0;
          for (; j + kColumns <= s_.kernel.w; j += kColumns) add.template operator()<kColumns>(j);
          for (; j < s_.kernel.w; ++j) add.template operator()<1>(j);
        }
      }
    });
  }
  template <int K, int S, int O, int J, int R>
  void add_columns(Vec<T>* to, int64_t t, Vec<T>* total, const OutputRows<T>& from, const T* plane,
                   int64_t j, HeightWidth outputs) {
    Vec<T> sum[J * K * O];
    const auto at = [&](int i) {
      return to + (i / O / K * s_.kernel.h + i / O % K + t) * O + i % O;
    };
    for (int i = 0; i < J * K * O; ++i) sum[i] = *at(i);
    add_products<K, S, O, J, R>(sum, total, from, plane + t * layout_.tap_step(),
                                layout_.columns() + j, layout_.out_step(), layout_.tap_step(), 0,
                                outputs);
    for (int i = 0; i < J * K * O; ++i) *at(i) = sum[i];
  }

  Conv2dSizes s_;
  Bands bands_;
  TapRows<T> layout_;
  int64_t at_once_, weights_, added_ = 0;
  Workspace<T> sums_, scratch_;
  double* totals_ = nullptr;
};

template <typename T>
void backward(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
              const Conv2dSizes& s) {
  const int64_t outs = s.group_out_channels();
  // The images are cut into `cuts` blocks, where there are few groups.
  const double flops = 2 * static_cast<double>(outs * s.taps() * s.out.area());
  const auto worth = static_cast<int64_t>(flops * static_cast<double>(s.batch) / kBlockFlops);
  const int64_t cuts = larger(smaller(smaller(worth, s.batch), ceil_div(kMinBlocks, s.groups)), 1);
  const int64_t images = ceil_div(s.batch, cuts);
  const auto grain =
      static_cast<int64_t>(kBlockFlops / (2 * flops * static_cast<double>(images) + 1)) + 1;
  const int64_t count = outs * (s.taps() + 1);
  const Workspace<double> totals(s.groups * cuts * count);

  const auto run = [&](int64_t scratch_elements, auto&& input_gradient) {
    parallel_ranges(s.groups * cuts, grain, [&](int64_t begin, int64_t end) {
      const Workspace<T> scratch(dx ? scratch_elements : 0);
      WeightSums<T> sums(s);
      bool used = false;
      for (int64_t block = begin; block < end; ++block) {
        sums.start(totals.data() + block * count);
        const int64_t g = block / cuts, first = block % cuts * images;
        for (int64_t n = first; n < smaller(first + images, s.batch); ++n) {
          const int64_t group = n * s.groups + g;
          if (dx) input_gradient(dx, dy, group, scratch.data(), used);
          used = true;
          if (dweight || dbias) sums.add(dy, x, group);
        }
        sums.flush();
      }
    });
  };
  if (dx) {
    with_input_gradient(weight, s, run);
  } else {
    run(0, [](T*, const T*, int64_t, T*, bool) {});
  }

  const WeightSums<T> order(s);
  const auto total = [&](int64_t g, int64_t place) {
    double sum = 0;
    for (int64_t cut = 0; cut < cuts; ++cut) {
      sum += totals.data()[(g * cuts + cut) * count + place];
    }
    return static_cast<T>(sum);
  };
  for (int64_t k = 0; k < s.out_channels; ++k) {
    const int64_t g = k / outs;
    if (dbias) dbias[k] = total(g, outs * s.taps() + k % outs);
    for (int64_t i = 0; dweight && i < s.taps(); ++i) {
      const int64_t tap = i % s.kernel.area();
      dweight[k * s.taps() + i] =
          total(g, order.place(k % outs, i / s.kernel.area(), tap / s.kernel.w, tap % s.kernel.w));
    }
  }
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dGroupedKernels, conv2d_grouped_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
