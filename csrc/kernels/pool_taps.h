// Pooling with small windows: K x K with stride S, the same along both axes. A band of a plane is
// laid out by TapRows, and the windows walk down it with the lanes along the output's width: each
// row under them is reduced once, in registers, for all the windows it lies in.
#pragma once

#include "kernels/pool_windows.h"
#include "kernels/window_gradient.h"

namespace fastdl::FASTDL_ISA {

FASTDL_INLINE Conv2dSizes tap_sizes(const PoolWindows& w) {
  const auto pair = [&](int64_t PoolAxis::* member) {
    return HeightWidth{w.rows.*member, w.columns.*member};
  };
  Conv2dSizes s{};
  s.in = pair(&PoolAxis::size);
  s.kernel = pair(&PoolAxis::kernel);
  s.out = pair(&PoolAxis::output);
  s.stride = pair(&PoolAxis::stride);
  s.dilation = pair(&PoolAxis::dilation);
  s.padding = pair(&PoolAxis::padding);
  return s;
}

// body<K, S, P>() for windows that has_few_taps() accepts; P is the padding modulo S.
template <typename Body>
FASTDL_INLINE void with_window(const PoolAxis& axis, Body&& body) {
  const bool odd = axis.padding % 2;
  if (axis.kernel == 3 && axis.stride == 1) return body.template operator()<3, 1, 0>();
  if (axis.kernel == 3) {
    return odd ? body.template operator()<3, 2, 1>() : body.template operator()<3, 2, 0>();
  }
  odd ? body.template operator()<2, 2, 1>() : body.template operator()<2, 2, 0>();
}

// emit(row, column, lanes, rows under the windows), each of them as reduce(taps, column) made it;
// tap j is at taps[columns[j]].
template <int K, int S, typename T, typename Reduce, typename Emit>
FASTDL_INLINE void walk_down(const T* rows, const TapRows<T>& layout, HeightWidth outputs,
                             Reduce&& reduce, Emit&& emit) {
  constexpr int kKept = K > S ? K - S : 0;
  const int64_t out_step = layout.out_step(), tap_step = layout.tap_step();
  for_each_vec<T>(outputs.w, [&](int64_t w, int lanes) {
    decltype(reduce(rows, w)) under[K];
    for (int i = 0; i < kKept; ++i) under[i] = reduce(rows + i * tap_step + w, w);
    for (int64_t row = 0; row < outputs.h; ++row) {
      const T* at = rows + row * out_step + w;
#pragma GCC unroll 4
      for (int i = kKept; i < K; ++i) under[i] = reduce(at + i * tap_step, w);
      emit(row, w, lanes, under);
#pragma GCC unroll 4
      for (int i = 0; i < kKept; ++i) under[i] = under[i + S];
    }
  });
}

}  // namespace fastdl::FASTDL_ISA
