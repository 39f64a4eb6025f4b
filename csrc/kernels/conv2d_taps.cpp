// y[n, k, p] = bias[k] + sum_{c, i, j} weight[k, c, i, j] x[n, c, p * stride + (i, j) * dilation]
//
// Few outputs of many products, such as one image's in the last layers: to rearrange the weight for
// them takes as long as to multiply. So the lanes run along the taps of all channels, in which a
// weight lies in a line, and what each output reads is laid out likewise, as a patch. The sums of a
// few weights with a few patches fill the registers, and are added up over the lanes in the end.
//
// A block takes some output channels, a part of the taps at a time: their weights stay in L2, the
// patches of a tile in L1. The part that comes next is prefetched meanwhile.
#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/conv2d.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kPart = 72;           // vectors of taps at a time: also bounds the error
constexpr int64_t kBlockChannels = 32;  // output channels of a block
constexpr int64_t kGrain = 16384;       // elements to copy, some 5 us

// Weights x patches: 24 sums, 4 weights and a patch fill 29 of 32 registers, 10 + 2 + 1 13 of 16.
template <typename T>
struct TapsTile {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int weights = kVecRegisters == 32 ? 4 : 2;
  static constexpr int patches = kVecRegisters == 32 ? 6 : 5;
  static constexpr int sums = weights * patches + lanes;  // rounded up to whole vectors
};

// sums[w * Patches + p] = sum over `depth` taps of weight w times patch p.
template <int Weights, int Patches, typename T>
void taps_tile(T* sums, const T* weight, int64_t weight_step, const T* patch, int64_t patch_step,
               int64_t depth, const T* ahead) {
  constexpr int lanes = Vec<T>::lanes, count = Weights * Patches;
  constexpr int vectors = (count + lanes - 1) / lanes * lanes;
  Vec<T> sum[vectors];
#pragma GCC unroll 32
  for (int i = 0; i < vectors; ++i) sum[i] = zero<T>();
  for_each_vec<T>(depth, [&](int64_t q, int n) {
    __builtin_prefetch(ahead + q, 0, 2);
    Vec<T> w[Weights];
#pragma GCC unroll 4
    for (int i = 0; i < Weights; ++i) w[i] = load(weight + i * weight_step + q, n);
#pragma GCC unroll 8
    for (int p = 0; p < Patches; ++p) {
      Vec<T> v = load(patch + p * patch_step + q);
      keep(v);
#pragma GCC unroll 4
      for (int i = 0; i < Weights; ++i) sum[i * Patches + p] = fma(w[i], v, sum[i * Patches + p]);
    }
  });
#pragma GCC unroll 32
  for (int i = 0; i < vectors; i += lanes) {
    Vec<T> group[lanes];
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) group[j] = sum[i + j];
    store(sums + i, lane_sums(group));
  }
}

template <typename T>
using TileFunction = void (*)(T*, const T*, int64_t, const T*, int64_t, int64_t, const T*);

template <typename T, int W = TapsTile<T>::weights, int P = TapsTile<T>::patches>
TileFunction<T> tile_of(int64_t weights, int64_t patches) {
  if (weights == W && patches == P) return taps_tile<W, P, T>;
  if constexpr (P > 1) {
    if (weights == W) return tile_of<T, W, P - 1>(weights, patches);
  }
  if constexpr (W > 1) {
    return tile_of<T, W - 1, P>(weights, patches);
  }
  return nullptr;
}

// patches[n, p, :] is what output p of image n reads, in the order of a weight, in `step` elements.
template <typename T>
void copy_patches(T* patches, int64_t step, const T* x, const Conv2dSizes& s) {
  const HeightWidth reach = s.reach();
  const HeightWidth padded{(s.out.h - 1) * s.stride.h + reach.h + 1,
                           (s.out.w - 1) * s.stride.w + reach.w + 1};
  const int64_t planes = s.batch * s.channels, area = s.kernel.area(), taps = s.taps();
  parallel_ranges(planes, kGrain / (s.out.area() * area) + 1, [&](int64_t begin, int64_t end) {
    const Workspace<T> copy(padded.area());
    for (int64_t i = 0; i < padded.area(); ++i) copy.data()[i] = 0;
    const HeightWidth inside{smaller(s.in.h, padded.h - s.padding.h),
                             smaller(s.in.w, padded.w - s.padding.w)};
    for (int64_t plane = begin; plane < end; ++plane) {
      for (int64_t h = 0; h < inside.h; ++h) {
        const T* from = x + plane * s.in.area() + h * s.in.w;
        T* row = copy.data() + (h + s.padding.h) * padded.w + s.padding.w;
        for_each_vec<T>(inside.w, [=](int64_t w, int n) { store(row + w, load(from + w, n), n); });
      }
      T* to = patches + plane / s.channels * s.out.area() * step + plane % s.channels * area;
      for (int64_t h = 0; h < s.out.h; ++h) {
        for (int64_t w = 0; w < s.out.w; ++w, to += step) {
          const T* window = copy.data() + h * s.stride.h * padded.w + w * s.stride.w;
          for (int64_t i = 0; i < s.kernel.h; ++i) {
            const T* row = window + i * s.dilation.h * padded.w;
            T* const tap = to + i * s.kernel.w;
            for (int64_t j = 0; j < s.kernel.w; ++j) tap[j] = row[j * s.dilation.w];
          }
        }
      }
    }
  });
  for (int64_t i = 0; i < s.batch * s.out.area(); ++i) {
    for (int64_t q = taps; q < step; ++q) patches[i * step + q] = 0;
  }
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  using Tile = TapsTile<T>;
  const int64_t taps = s.taps(), step = round_up(taps, Vec<T>::lanes), pixels = s.out.area();
  const Workspace<T> patches(s.batch * pixels * step);
  copy_patches(patches.data(), step, x, s);

  const int64_t part =
      round_up(ceil_div(taps, ceil_div(taps, kPart * Vec<T>::lanes)), Vec<T>::lanes);
  const int64_t tiles = ceil_div(pixels, Tile::patches);
  parallel_for(ceil_div(s.out_channels, kBlockChannels), [&](int64_t block) {
    const int64_t k0 = block * kBlockChannels, k1 = smaller(k0 + kBlockChannels, s.out_channels);
    for (int64_t q = 0; q < taps; q += part) {
      const int64_t depth = smaller(part, taps - q);
      // The next part of these weights, or the first of the next ones.
      const int64_t next = q + part < taps ? q + part : kBlockChannels * taps;
      for (int64_t t = 0; t < s.batch * tiles; ++t) {
        const int64_t n = t / tiles, p0 = pixels * (t % tiles) / tiles;
        const int64_t count = pixels * (t % tiles + 1) / tiles - p0;
        const T* patch = patches.data() + (n * pixels + p0) * step + q;
        for (int64_t k = k0; k < k1; k += Tile::weights) {
          const int64_t weights = smaller(Tile::weights, k1 - k);
          const T* ahead = weight + (k + smaller(t, Tile::weights - 1)) * taps + next;
          T sums[Tile::sums];
          tile_of<T>(weights, count)(sums, weight + k * taps + q, taps, patch, step, depth, ahead);
          for (int64_t i = 0; i < weights; ++i) {
            T* to = y + (n * s.out_channels + k + i) * pixels + p0;
            const Vec<T> start = broadcast(bias ? bias[k + i] : T(0));
            for_each_vec<T>(count, [&](int64_t j, int lanes) {
              const Vec<T> sum = load(sums + i * count + j, lanes);
              store(to + j, (q > 0 ? load(to + j, lanes) : start) + sum, lanes);
            });
          }
        }
      }
    }
    for (int64_t n = 0; n < s.batch; ++n) {
      T* to = y + (n * s.out_channels + k0) * pixels;
      apply_epilogue(to, pixels, k1 - k0, pixels, epilogue.at(to - y));
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dTapsKernels, conv2d_taps_kernels, forward<T>)

}  // namespace fastdl::FASTDL_ISA
