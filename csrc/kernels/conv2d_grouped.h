// Convolution of few channels a group, in registers: R rows x O output channels of one vector of
// columns at once. A vector of x is loaded once for all of them: of a window of K rows it is used
// up to K * O times, where a sum for each output alone would load as often as it multiplies.
#pragma once

#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {

// How many rows of outputs the registers hold beside the weights of a column of K taps.
template <int K, int O>
constexpr int rows_at_once() {
  int rows = 8;
  while (rows > 1 && (rows + K) * O + 1 > kVecRegisters) rows /= 2;
  return rows;
}

// How many columns of K taps have their sums in registers beside R rows of dy and their sum.
template <int K, int O, int R>
constexpr int columns_at_once() {
  const int fit = (kVecRegisters - 1 - (R + 1) * O) / (K * O), most = K == 1 ? 4 : K;
  return fit < 1 ? 1 : fit < most ? fit : most;
}

// Adds a column of K taps to the sums of R rows; row_step: from a row of taps to the next, 1 / S of
// the way from an output to the next.
template <int K, int S, int O, int R, typename T>
FASTDL_INLINE void add_taps(Vec<T> (&sum)[R][O], const T* x, int64_t row_step, const T* weight) {
  Vec<T> factor[K][O];
#pragma GCC unroll 8
  for (int t = 0; t < K; ++t) {
#pragma GCC unroll 8
    for (int k = 0; k < O; ++k) factor[t][k] = broadcast(weight[t * O + k]);
  }
#pragma GCC unroll 32
  for (int r = 0; r < S * (R - 1) + K; ++r) {
    Vec<T> v = load(x + r * row_step);
    keep(v);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const int t = r - S * i;
      if (t < 0 || t >= K) continue;
#pragma GCC unroll 8
      for (int k = 0; k < O; ++k) sum[i][k] = fma(factor[t][k], v, sum[i][k]);
    }
  }
}

// emit(row, column, lanes, k, sum) for the rows of `outputs` from `row` on and O output channels,
// whose sums start from start[k]. x: `channels` planes of the layout; weight: (channels, kernel.w,
// kernel.h, O). A window of K > 1 rows is one whose rows lie S apart from output to output; K = 1
// and S = 1 is for any other.
template <int K, int S, int O, int R, typename T, typename Emit>
FASTDL_INLINE void convolve_rows(const T* x, int64_t channels, HeightWidth kernel, const T* weight,
                                 const T* start, const TapRows<T>& layout, int64_t row,
                                 HeightWidth outputs, Emit&& emit) {
  constexpr int kLanes = Vec<T>::lanes;
  const int64_t out_step = layout.out_step(), tap_step = layout.tap_step(), size = layout.plane();
  const int64_t *columns = layout.columns(), step = K == 1 ? out_step : tap_step;
  for (; row + R <= outputs.h; row += R) {
    for (int64_t w = 0; w < outputs.w; w += kLanes) {
      Vec<T> sum[R][O];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int k = 0; k < O; ++k) sum[i][k] = broadcast(start[k]);
      }
      const T* factor = weight;
      for (int64_t c = 0; c < channels; ++c) {
        const T* plane = x + c * size + row * out_step + w;
        for (int64_t j = 0; j < kernel.w; ++j) {
          const T* from = plane + columns[j];
          for (int64_t t = 0; t < kernel.h; t += K, factor += K * O) {
            add_taps<K, S, O, R>(sum, from + t * tap_step, step, factor);
          }
        }
      }
      const auto lanes = static_cast<int>(smaller(outputs.w - w, kLanes));
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int k = 0; k < O; ++k) emit(row + i, w, lanes, k, sum[i][k]);
      }
    }
  }
  if constexpr (R > 1) {
    convolve_rows<K, S, O, R / 2>(x, channels, kernel, weight, start, layout, row, outputs, emit);
  }
}

// dy under the rows of a band: O planes, `plane` apart, of rows `row` apart.
template <typename T>
struct OutputRows {
  const T* dy;
  int64_t plane, row;
};

// sums[(j * K + t) * O + k] += the products of plane k of dy with what tap t of column j < J reads,
// total[k] += dy; lane by lane, R rows at a time.
template <int K, int S, int O, int J, int R, typename T>
FASTDL_INLINE void add_products(Vec<T>* sums, Vec<T>* total, const OutputRows<T>& from, const T* x,
                                const int64_t* columns, int64_t out_step, int64_t tap_step,
                                int64_t row, HeightWidth outputs) {
  Vec<T> sum[J][K][O], all[O];
#pragma GCC unroll 32
  for (int i = 0; i < J * K * O; ++i) sum[i / O / K][i / O % K][i % O] = sums[i];
#pragma GCC unroll 8
  for (int k = 0; k < O; ++k) all[k] = total[k];
  for (; row + R <= outputs.h; row += R) {
    for_each_vec<T>(outputs.w, [&](int64_t w, int lanes) __attribute__((always_inline)) {
      Vec<T> gradient[R][O];
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int k = 0; k < O; ++k) {
          gradient[i][k] = load(from.dy + k * from.plane + (row + i) * from.row + w, lanes);
          keep(gradient[i][k]);
          all[k] += gradient[i][k];
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) {
        const T* at = x + row * out_step + columns[j] + w;
#pragma GCC unroll 32
        for (int r = 0; r < S * (R - 1) + K; ++r) {
          Vec<T> v = load(at + r * (K == 1 ? out_step : tap_step), lanes);
          keep(v);
#pragma GCC unroll 8
          for (int i = 0; i < R; ++i) {
            const int t = r - S * i;
            if (t < 0 || t >= K) continue;
#pragma GCC unroll 8
            for (int k = 0; k < O; ++k) sum[j][t][k] = fma(gradient[i][k], v, sum[j][t][k]);
          }
        }
      }
    });
  }
#pragma GCC unroll 32
  for (int i = 0; i < J * K * O; ++i) sums[i] = sum[i / O / K][i / O % K][i % O];
#pragma GCC unroll 8
  for (int k = 0; k < O; ++k) total[k] = all[k];
  if constexpr (R > 1) {
    add_products<K, S, O, J, R / 2>(sums, total, from, x, columns, out_step, tap_step, row,
                                    outputs);
  }
}

}  // namespace fastdl::FASTDL_ISA
