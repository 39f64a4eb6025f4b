// 16-bit arrays widened to float32 for the kernels, and narrowed after: whole ones by the bindings,
// in blocks where the slices of an op do not depend on each other.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/tensor.h"

namespace fastdl::ops {

void widen(float* y, const Tensor& x);         // x: bfloat16 or float16
void narrow(const Tensor& y, const float* x);  // y: the same; one rounding, to nearest even
void narrow(const TensorList& to, const TensorList& from);  // as many, at once on a device

// Elements first..first + n - 1 as a flat array.
inline Tensor part(const Tensor& x, int64_t first, int64_t n) {
  return {x.ptr<char>() + first * static_cast<int64_t>(dtype_size(x.dtype)), x.dtype, {n}};
}

// kernel(y, x, slices) computes slices of `size` elements of y from those of the inputs, T* y from
// x[0], x[1], .. It gets the arrays as they lie, or, if they are 16-bit, block after block in
// float32 buffers that stay in the cache: memory sees 16 bits alone. y may be one of the inputs.
template <typename T, size_t N, typename Kernel>
void map_slices(const Tensor& y, const std::array<const Tensor*, N>& inputs, int64_t size,
                Kernel&& kernel) {
  const int64_t slices = y.numel() / size;
  if (!is_half(y.dtype)) {
    std::array<const T*, N> x;
    for (size_t i = 0; i < N; ++i) x[i] = inputs[i]->template ptr<T>();
    return kernel(y.ptr<T>(), x, slices);
  }
  if constexpr (std::is_same_v<T, float>) {
    constexpr int64_t kGrain = 1 << 14;  // of a thread
    constexpr int64_t kBlock = 1 << 11;  // three buffers of 8 KB lie in the first cache
    const int64_t step = std::max<int64_t>(kBlock / size, 1);
    parallel_ranges(slices, std::max<int64_t>(kGrain / size, 1), [&](int64_t begin, int64_t end) {
      const int64_t room = std::min(step, end - begin) * size;
      std::array<const float*, N> x;
      const Workspace<float> buffer(static_cast<int64_t>(N + 1) * room);
      for (int64_t slice = begin; slice < end; slice += step) {
        const int64_t count = std::min(step, end - slice), first = slice * size, n = count * size;
        for (size_t i = 0; i < N; ++i) {
          float* widened = buffer.data() + static_cast<int64_t>(i + 1) * room;
          widen(widened, part(*inputs[i], first, n));
          x[i] = widened;
        }
        kernel(buffer.data(), x, count);
        narrow(part(y, first, n), buffer.data());
      }
    });
  }
}

}  // namespace fastdl::ops
