// conv2d with one input channel a group: too little work for each element to make a matrix of it.
//
// A band of x is copied with its padding (TapRows); then every tap is a load and a multiplication,
// the lanes along the width. The gradient of x is, for each row and column modulo the stride, such
// a convolution of dy with the taps that reach it, flipped. The gradient of the weight multiplies
// rows of dy with the rows under each tap; sums go on in double every kMaxVectors additions.
//
// With windows every 2 elements, x and dy are read where they lie instead (pool_taps.h): for 3 x 3,
// and 5 x 5's gradient of x.
#include "core/apply_epilogue.h"
#include "core/reduce.h"
#include "kernels/pool_taps.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kBandOutputs = 8192;  // with its part of x some 64 KB
constexpr int64_t kMinOutputs = 256;
constexpr int64_t kMaxVectors = 256;
constexpr int64_t kMinBlocks = 16;
constexpr double kBlockFlops = 3e5;  // some 10 us

template <typename T>
struct Filter {
  const T* weight;  // (channels, kernel)
  T start;          // what the sum starts from
  int64_t channels;
  HeightWidth kernel;
};

// emit(row, column, lanes, sums) for the outputs of a band; planes: one of TapRows per channel.
template <int R, int S, typename T, typename Emit>
void fixed_window(const Filter<T>& filter, const T* planes, const TapRows<T>& layout,
                  HeightWidth outputs, Emit&& emit) {
  Vec<T> factor[R * S];
  for (int i = 0; i < R * S; ++i) factor[i] = broadcast(filter.weight[i]);
  int64_t columns[S];
  for (int j = 0; j < S; ++j) columns[j] = layout.columns()[j];
  const int64_t tap_step = layout.tap_step();
  for (int64_t row = 0; row < outputs.h; ++row) {
    const T* base = planes + row * layout.out_step();
    for_each_vec<T>(outputs.w, [&](int64_t w, int lanes) {
      Vec<T> sum = broadcast(filter.start);
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < S; ++j) {
          sum = fma(factor[i * S + j], load(base + i * tap_step + columns[j] + w), sum);
        }
      }
      emit(row, w, lanes, sum);
    });
  }
}

template <typename T, typename Emit>
void any_window(const Filter<T>& filter, const T* planes, const TapRows<T>& layout,
                HeightWidth outputs, Emit&& emit) {
  const auto [R, S] = filter.kernel;
  for (int64_t row = 0; row < outputs.h; ++row) {
    const T* base = planes + row * layout.out_step();
    for_each_vec<T>(outputs.w, [&](int64_t w, int lanes) {
      Vec<T> sum = broadcast(filter.start);
      const T* factor = filter.weight;
      for (int64_t c = 0; c < filter.channels; ++c) {
        for (int64_t i = 0; i < R; ++i) {
          const T* from = base + c * layout.plane() + i * layout.tap_step() + w;
          Vec<T> row_sum = zero<T>();
          for (int64_t j = 0; j < S; ++j) {
            row_sum = fma(broadcast(*factor++), load(from + layout.columns()[j]), row_sum);
          }
          sum += row_sum;
        }
      }
      emit(row, w, lanes, sum);
    });
  }
}

template <typename T, typename Emit>
void convolve(const Filter<T>& filter, const T* planes, const TapRows<T>& layout,
              HeightWidth outputs, Emit&& emit) {
  const bool one = filter.channels == 1;
  if (one && filter.kernel == HeightWidth{3, 3}) {
    fixed_window<3, 3>(filter, planes, layout, outputs, emit);
  } else if (one && filter.kernel == HeightWidth{5, 5}) {
    fixed_window<5, 5>(filter, planes, layout, outputs, emit);
  } else {
    any_window(filter, planes, layout, outputs, emit);
  }
}

double band_flops(const Bands& bands, double taps) {
  return 2 * (taps + 4) * static_cast<double>(bands.size.area());
}

int64_t most_outputs(const Conv2dSizes& s) {
  return larger(kStageElements / s.stride.h / s.stride.w, kMinOutputs);
}

int64_t band_cost(const Bands& bands, const Conv2dSizes& s) {
  return bands.size.area() * (4 + s.group_out_channels() * s.kernel.area() / 4);
}

// Windows of K x K every 2 elements, with a padding of P along both axes.
template <int K, int P>
bool are_strided(const Conv2dSizes& s) {
  const HeightWidth one{1, 1}, two{2, 2}, kernel{K, K}, padding{P, P};
  return s.kernel == kernel && s.stride == two && s.dilation == one && s.padding == padding;
}

FASTDL_INLINE PoolWindows strided_windows(const Conv2dSizes& s) {
  return {{s.in.h, s.kernel.h, 2, s.padding.h, 1, s.out.h},
          {s.in.w, s.kernel.w, 2, s.padding.w, 1, s.out.w}};
}

// emit(row, strip, lanes, under) for the outputs of some rows; under[i].taps[j] is what tap (i, j)
// reads of the plane x, where it lies: each row comes to the registers, and is split into even and
// odd columns, once for all windows that reach it. What lies `ahead` of it begins to come to L1.
template <int P, typename T, typename Emit>
FASTDL_INLINE void strided_rows(const PoolWindows& windows, int64_t begin, int64_t end, const T* x,
                                int64_t ahead, Emit emit) {
  struct Row {
    Vec<T> taps[3];
  };
  const int64_t width = windows.columns.size;
  walk_down<3, 2, P, T>(
      windows, begin, end, Row{},
      [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
        Row row;
        strip.read(row.taps, x + r * width, T(0));
        strip.prefetch(x + r * width + ahead);
        return row;
      },
      emit);
}

template <int P, typename T>
void strided_forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
                     const Epilogue<T>& epilogue) {
  const PoolWindows windows = strided_windows(s);
  const PoolBands bands = small_bands(s.batch * s.groups, windows);
  const int64_t outs = s.group_out_channels();
  const int64_t ahead = 2 * bands.rows_per_band * s.in.w;  // in the next band
  for_each_pool_band<T>(bands, 0, [&](T*, int64_t plane, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < outs; ++i) {
      const int64_t k = plane % s.groups * outs + i;
      Vec<T> factor[9];
      for (int tap = 0; tap < 9; ++tap) factor[tap] = broadcast(weight[k * 9 + tap]);
      const Vec<T> start = broadcast(bias ? bias[k] : T(0));
      T* const to = y + (plane * outs + i) * s.out.area();
      strided_rows<P>(windows, begin, end, x + plane * s.in.area(), ahead,
                      [=](int64_t row, const auto& strip, int lanes, const auto* under)
                          FASTDL_INLINE_LAMBDA {
                            Vec<T> sum = start;
#pragma GCC unroll 9
                            for (int tap = 0; tap < 9; ++tap) {
                              sum = fma(factor[tap], under[tap / 3].taps[tap % 3], sum);
                            }
                            store(to + row * s.out.w + strip.column, sum, lanes);
                          });
      T* const band = to + begin * s.out.w;
      apply_epilogue(band, 0, 1, (end - begin) * s.out.w, epilogue.at(band - y));
    }
  });
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  if (are_strided<3, 0>(s)) return strided_forward<0>(y, x, weight, bias, s, epilogue);
  if (are_strided<3, 1>(s)) return strided_forward<1>(y, x, weight, bias, s, epilogue);
  const Bands bands(s.out, most_outputs(s));
  const TapRows<T> layout(s, bands.size);
  const int64_t outs = s.group_out_channels(), area = s.kernel.area();
  // A row of outputs reads about so much; what is copied next lies so far behind.
  const int64_t read = s.stride.h * s.in.w;
  const int64_t next =
      bands.count > 1 ? bands.size.h * read : pieces_at_once(layout.scratch(1)) * s.in.area();
  for_each_band<T>(
      s.batch * s.groups, bands, layout.scratch(1), band_cost(bands, s),
      [&](T* scratch, int64_t band) { layout.surround(scratch, bands.first(band), T(0)); },
      [&](T* scratch, int64_t plane, int64_t band) {
        layout.copy(scratch, x + plane * s.in.area(), bands.first(band));
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        const T* ahead = x + plane * s.in.area() + next + bands.first(band).h * read;
        for (int64_t i = 0; i < outs; ++i) {
          const int64_t k = plane % s.groups * outs + i;
          T* to = y + (plane * outs + i) * s.out.area() + bands.offset(band);
          convolve<T>({weight + k * area, bias ? bias[k] : 0, 1, s.kernel}, rows, layout,
                      outputs_of(bands, band), [&](int64_t row, int64_t w, int lanes, Vec<T> sum) {
                        store(to + row * s.out.w + w, sum, lanes);
                        // All at once they would wait for each other.
                        for (int64_t j = 0; w == 0 && i == 0 && j < read; j += 64 / sizeof(T)) {
                          __builtin_prefetch(ahead + row * read + j, 0, 2);
                        }
                      });
          apply_epilogue(to, 0, 1, bands.outputs(band), epilogue.at(to - y));
        }
      });
}

// The elements first, first + stride, ... of one axis of x, and the taps that reach them: they are
// first_tap, first_tap + tap_step, ..., and tap t of them reads, for the o-th element,
// dy[o + (taps - 1 - t) * dilation - padding].
struct Phase {
  int64_t count, taps, first_tap = 0, tap_step = 1, dilation = 1, padding = 0;

  Phase(int64_t first, int64_t in, int64_t kernel, int64_t stride, int64_t step, int64_t pad)
      : count((in - first - 1) / stride + 1), taps(0) {
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
  if (step == 1) return store(to, v, lanes);
  T values[Vec<T>::lanes];
  store(values, v);
  for (int i = 0; i < lanes; ++i) to[i * step] = values[i];
}

// dx at the rows from `first` on, `stride` apart, of all planes.
template <typename T>
void input_gradient_phase(T* dx, const T* dy, const T* weight, const Conv2dSizes& s,
                          HeightWidth first) {
  const Phase h(first.h, s.in.h, s.kernel.h, s.stride.h, s.dilation.h, s.padding.h);
  const Phase w(first.w, s.in.w, s.kernel.w, s.stride.w, s.dilation.w, s.padding.w);
  Conv2dSizes t = s;
  t.in = s.out;
  t.out = {h.count, w.count};
  t.kernel = {h.taps, w.taps};
  t.stride = {1, 1};
  t.dilation = {h.dilation, w.dilation};
  t.padding = {h.padding, w.padding};
  if (t.kernel.area() == 0) t.kernel = {0, 0};  // no tap reaches them

  const Bands bands(t.out, kStageElements);
  const int64_t outs = s.group_out_channels(), area = t.kernel.area();
  const TapRows<T> layout(t, bands.size);
  const Workspace<T> flipped(s.out_channels * area);
  for (int64_t k = 0; k < s.out_channels; ++k) {
    const T* from = weight + k * s.kernel.area();
    for (int64_t tap = 0; tap < area; ++tap) {
      const int64_t i = h.first_tap + tap / w.taps * h.tap_step;
      const int64_t j = w.first_tap + tap % w.taps * w.tap_step;
      flipped.data()[(k + 1) * area - 1 - tap] = from[i * s.kernel.w + j];
    }
  }
  for_each_band<T>(
      s.batch * s.groups, bands, layout.scratch(outs), band_cost(bands, t),
      [&](T* scratch, int64_t band) {
        for (int64_t k = 0; k < outs; ++k) {
          layout.surround(scratch + k * layout.plane(), bands.first(band), T(0));
        }
      },
      [&](T* scratch, int64_t plane, int64_t band) {
        for (int64_t k = 0; k < outs && area > 0; ++k) {
          layout.copy(scratch + k * layout.plane(), dy + (plane * outs + k) * t.in.area(),
                      bands.first(band));
        }
      },
      [&](const T* rows, int64_t plane, int64_t band) {
        const HeightWidth at = bands.first(band);
        T* to = dx + plane * s.in.area() + (first.h + at.h * s.stride.h) * s.in.w + first.w +
                at.w * s.stride.w;
        const T* factors = flipped.data() + plane % s.groups * outs * area;
        convolve<T>({factors, 0, outs, t.kernel}, rows, layout, outputs_of(bands, band),
                    [&](int64_t row, int64_t column, int lanes, Vec<T> sum) {
                      store_apart(to + row * s.stride.h * s.in.w + column * s.stride.w, sum, lanes,
                                  s.stride.w);
                    });
      });
}

// dx of windows of K x K every 2 elements, written once. It walks down as well, over dy.
template <int K, int P, typename T>
void strided_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  using Gradient = PoolGradient<K, 2, P>;
  struct Row {
    Vec<T> of[Gradient::kSpan];
  };
  const PoolWindows windows = strided_windows(s), blocks = Gradient::windows(windows);
  const PoolBands bands = Gradient::bands(s.batch * s.groups, windows);
  const int64_t width = s.out.w, ahead = bands.rows_per_band * width;  // in the next band
  for_each_pool_band<T>(bands, 0, [&](T*, int64_t plane, int64_t begin, int64_t end) {
    const T* const from = dy + plane * s.out.area();
    T* const to = dx + plane * s.in.area();
    Vec<T> factor[K * K];
    for (int i = 0; i < K * K; ++i) factor[i] = broadcast(weight[plane % s.groups * K * K + i]);
    walk_down<Gradient::kSpan, 1, -Gradient::kFirst, T>(
        blocks, begin, end, Row{},
        [=](const auto& strip, int64_t r) FASTDL_INLINE_LAMBDA {
          Row row;
          strip.read(row.of, from + r * width, T(0));
          strip.prefetch(from + r * width + ahead);
          return row;
        },
        [&](int64_t row, const auto& strip, int lanes, const Row* over) FASTDL_INLINE_LAMBDA {
          Vec<T> sum[2][2];
          Gradient::add_up(sum,
                           [&](int tap, int r, int column, Vec<T> so_far) FASTDL_INLINE_LAMBDA {
                             return fma(factor[tap], over[r].of[column], so_far);
                           });
          Gradient::write(to, s.in, 2 * row, 2 * strip.column, lanes, sum);
        });
  });
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  const bool single = s.group_out_channels() == 1;
  if (single && are_strided<3, 0>(s)) return strided_gradient<3, 0>(dx, dy, weight, s);
  if (single && are_strided<3, 1>(s)) return strided_gradient<3, 1>(dx, dy, weight, s);
  if (single && are_strided<5, 2>(s)) return strided_gradient<5, 2>(dx, dy, weight, s);
  for (int64_t h = 0; h < smaller(s.stride.h, s.in.h); ++h) {
    for (int64_t w = 0; w < smaller(s.stride.w, s.in.w); ++w) {
      input_gradient_phase(dx, dy, weight, s, {h, w});
    }
  }
}

// totals[i] += sum over the outputs of dy * (what lies offsets[i] behind), i < N.
template <int N, typename T>
void add_products(double* totals, const T* dy, int64_t dy_step, const T* planes, int64_t out_step,
                  const int64_t* offsets, HeightWidth outputs) {
  Vec<T> sum[N];
  for (int i = 0; i < N; ++i) sum[i] = zero<T>();
  for (int64_t row = 0; row < outputs.h; ++row) {
    for_each_vec<T>(outputs.w, [&](int64_t w, int lanes) {
      const Vec<T> v = load(dy + row * dy_step + w, lanes);
      const T* from = planes + row * out_step + w;
#pragma GCC unroll 9
      for (int i = 0; i < N; ++i) sum[i] = fma(v, load(from + offsets[i], lanes), sum[i]);
    });
  }
  for (int i = 0; i < N; ++i) totals[i] += static_cast<double>(reduce_add(sum[i]));
}

// The same for all taps of a window.
template <typename T>
void add_all_products(double* totals, const T* dy, int64_t dy_step, const T* planes,
                      const TapRows<T>& layout, HeightWidth kernel, HeightWidth outputs) {
  const int64_t rows = larger(kMaxVectors / ceil_div(outputs.w, Vec<T>::lanes), 1);
  for (int64_t row = 0; row < outputs.h; row += rows) {
    const HeightWidth part{smaller(rows, outputs.h - row), outputs.w};
    const T *dy_row = dy + row * dy_step, *from = planes + row * layout.out_step();
    constexpr int64_t kMost = 9;
    for (int64_t tap = 0; tap < kernel.area();) {
      const int64_t count = smaller(kernel.area() - tap, kMost);
      int64_t offsets[kMost];
      for (int64_t i = 0; i < count; ++i) {
        offsets[i] =
            (tap + i) / kernel.w * layout.tap_step() + layout.columns()[(tap + i) % kernel.w];
      }
      const auto add = [&]<int N>() {
        add_products<N>(totals + tap, dy_row, dy_step, from, layout.out_step(), offsets, part);
        tap += N;
      };
      if (count == 9) {
        add.template operator()<9>();
      } else if (count >= 4) {
        add.template operator()<4>();
      } else {
        add.template operator()<1>();
      }
    }
  }
}

// The same for strided windows of a plane x; the next one lies `ahead`.
template <int P, typename T>
void add_strided_products(double* totals, const T* dy, const T* x, const PoolWindows& windows,
                          int64_t ahead) {
  const int64_t width = windows.columns.output;
  Vec<T> sum[9];
  int64_t vectors = 0;
  const auto clear = [&]() FASTDL_INLINE_LAMBDA {
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; ++tap) sum[tap] = zero<T>();
  };
  const auto add_up = [&]() FASTDL_INLINE_LAMBDA {
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; ++tap) totals[tap] += static_cast<double>(reduce_add(sum[tap]));
  };
  clear();
  strided_rows<P>(windows, 0, windows.rows.output, x, ahead,
                  [&](int64_t row, const auto& strip, int lanes, const auto* under)
                      FASTDL_INLINE_LAMBDA {
                        // Lanes beyond the last window read x as well, be it NaN.
                        const Mask<T> inside = first_lanes<T>(lanes);
                        const Vec<T> v = load(dy + row * width + strip.column, lanes);
#pragma GCC unroll 9
                        for (int tap = 0; tap < 9; ++tap) {
                          sum[tap] = fma(v, under[tap / 3].taps[tap % 3], sum[tap], inside);
                        }
                        if (++vectors % kMaxVectors > 0) return;
                        add_up();
                        clear();
                      });
  add_up();
}

template <typename T>
void weight_gradient(T* dweight, const T* dy, const T* x, const Conv2dSizes& s) {
  const Bands bands(s.out, smaller(kBandOutputs, kMaxVectors * Vec<T>::lanes));
  const TapRows<T> layout(s, bands.size);
  const int64_t outs = s.group_out_channels(), area = s.kernel.area(), pixels = s.out.area();
  const int64_t weights = s.out_channels * area;
  const double image_flops =
      static_cast<double>(bands.count) * band_flops(bands, static_cast<double>(outs * area));
  const auto worth = static_cast<int64_t>(image_flops * static_cast<double>(s.batch) / kBlockFlops);
  const int64_t parts = larger(smaller(smaller(worth, s.batch), ceil_div(kMinBlocks, s.groups)), 1);
  const int64_t images = ceil_div(s.batch, parts);
  const Workspace<double> totals(parts * weights);
  const PoolWindows windows = strided_windows(s);
  const auto strided = are_strided<3, 0>(s)   ? add_strided_products<0, T>
                       : are_strided<3, 1>(s) ? add_strided_products<1, T>
                                              : nullptr;

  const double flops = image_flops * static_cast<double>(images + 1);
  const auto grain = static_cast<int64_t>(kBlockFlops / flops) + 1;
  parallel_ranges(s.groups * parts, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(layout.scratch(1));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t part = block % parts, g = block / parts;
      double* sums = totals.data() + part * weights + g * outs * area;
      for (int64_t i = 0; i < outs * area; ++i) sums[i] = 0;
      const int64_t last = smaller((part + 1) * images, s.batch);
      for (int64_t n = part * images; n < last; ++n) {
        const int64_t plane = n * s.groups + g;
        for (int64_t k = 0; strided && k < outs; ++k) {
          strided(sums + k * area, dy + (plane * outs + k) * pixels, x + plane * s.in.area(),
                  windows, s.groups * s.in.area());
        }
        for (int64_t band = 0; !strided && band < bands.count; ++band) {
          if (bands.count > 1 || n == part * images) {
            layout.surround(scratch.data(), bands.first(band), T(0));
          }
          layout.copy(scratch.data(), x + plane * s.in.area(), bands.first(band));
          // The channel's next image lies far away, where no prefetcher of the CPU expects it.
          for (int64_t i = 0; bands.count == 1 && n + 1 < last && i < s.in.area();
               i += 64 / sizeof(T)) {
            __builtin_prefetch(x + (plane + s.groups) * s.in.area() + i, 0, 2);
          }
          for (int64_t k = 0; k < outs; ++k) {
            add_all_products(sums + k * area, dy + (plane * outs + k) * pixels + bands.offset(band),
                             s.out.w, scratch.data(), layout, s.kernel, outputs_of(bands, band));
          }
        }
      }
    }
  });
  for (int64_t i = 0; i < weights; ++i) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += totals.data()[part * weights + i];
    dweight[i] = static_cast<T>(sum);
  }
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dDepthwiseKernels, conv2d_depthwise_kernels, forward<T>,
                      input_gradient<T>, weight_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
