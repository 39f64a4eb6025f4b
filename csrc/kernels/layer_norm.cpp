// y = (x - mean) * rstd * weight + bias for every row,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dweight = sum dy * xhat,  dbias = sum dy.
//
// A row is read from memory once and from the cache after that. dweight and dbias are sums over
// rows: blocks of rows make partial sums, which are added in order.
#include "kernels/layer_norm.h"

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/moments.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 32768;  // elements a block: some 10 us
constexpr int64_t kMostRows = 64;  // in a block of partial sums: the additions in T
constexpr int64_t kLeastRows = 8;  // so that the partial sums stay small beside x

FASTDL_INLINE int64_t rows_per_block(int64_t size) {
  const int64_t rows = kGrain / (size > 0 ? size : 1);
  return rows < kLeastRows ? kLeastRows : rows > kMostRows ? kMostRows : rows;
}

template <typename T>
FASTDL_INLINE Moments row_moments(const T* x, int64_t size) {
  const auto chunk = [x](int64_t begin, int64_t count) {
    return chunk_moments<T>(count, [=](auto&& piece) { piece(x + begin, count); });
  };
  if (size > 0 && size <= kChunk<T>) return chunk(0, size);
  MomentSum sum;
  for (int64_t begin = 0; begin < size; begin += kChunk<T>) {
    const int64_t count = size - begin < kChunk<T> ? size - begin : kChunk<T>;
    sum.add(chunk(begin, count), count);
  }
  return {sum.mean(), sum.squares()};
}

template <typename T>
void forward(T* y, T* mean, T* rstd, const T* x, const T* weight, const T* bias, int64_t rows,
             int64_t size, double eps) {
  const double count = size > 0 ? static_cast<double>(size) : 1.0;
  parallel_ranges(rows, rows_per_block(size), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* xr = x + r * size;
      T* yr = y + r * size;
      const Moments moments = row_moments(xr, size);
      const Center<T> center = split_center<T>(moments.mean);
      const T scale = static_cast<T>(inverse_deviation(moments.squares / count, eps));
      mean[r] = center.high;
      rstd[r] = scale;
      const Vec<T> high = broadcast(center.high), low = broadcast(center.low * scale);
      const auto xhat = [=](int64_t i, int lanes) {
        return (load(xr + i, lanes) - high) * broadcast(scale) - low;
      };
      if (weight && bias) {
        for_each_vec<T>(size, [=](int64_t i, int lanes) {
          store(yr + i, fma(xhat(i, lanes), load(weight + i, lanes), load(bias + i, lanes)), lanes);
        });
      } else {
        for_each_vec<T>(size, [=](int64_t i, int lanes) {
          Vec<T> v = xhat(i, lanes);
          if (weight) v = v * load(weight + i, lanes);
          if (bias) v = v + load(bias + i, lanes);
          store(yr + i, v, lanes);
        });
      }
    }
  });
}

// One row of the backward: dx (unless null) from the two means over the row.
template <typename T>
FASTDL_INLINE void row_gradient(T* dx, const T* dy, const T* x, T mean, T rstd, const T* weight,
                                int64_t size) {
  const auto g = [=](int64_t i, int lanes) {
    const Vec<T> v = load(dy + i, lanes);
    return weight ? v * load(weight + i, lanes) : v;
  };
  const auto xhat = [=](int64_t i, int lanes) {
    return (load(x + i, lanes) - broadcast(mean)) * broadcast(rstd);
  };
  const Pair sums = pair_sums<T>(size, [=](int64_t i, int lanes, Vec<T>& a, Vec<T>& b) {
    const Vec<T> v = g(i, lanes);
    a += v;
    b = fma(v, xhat(i, lanes), b);
  });
  const double count = static_cast<double>(size);
  const Vec<T> mean_g = broadcast(static_cast<T>(sums.a / count));
  const Vec<T> mean_gx = broadcast(static_cast<T>(sums.b / count));
  for_each_vec<T>(size, [=](int64_t i, int lanes) {
    const Vec<T> v = fnma(xhat(i, lanes), mean_gx, g(i, lanes) - mean_g);
    store(dx + i, v * broadcast(rstd), lanes);
  });
}

// sums[0..size) = sum over rows of dy * xhat, sums[size..) = sum of dy. Four vectors of columns at
// a time stay in registers.
template <typename T>
FASTDL_INLINE void weight_sums(T* sums, const T* dy, const T* x, const T* mean, const T* rstd,
                               int64_t rows, int64_t size) {
  constexpr int kVectors = 4, lanes = Vec<T>::lanes;
  const auto columns = [=]<int vectors>(int64_t i, int width) {
    Vec<T> weight[vectors], bias[vectors];
    for (int k = 0; k < vectors; ++k) weight[k] = bias[k] = zero<T>();
    for (int64_t r = 0; r < rows; ++r) {
      const Vec<T> center = broadcast(mean[r]), scale = broadcast(rstd[r]);
#pragma GCC unroll 4
      for (int k = 0; k < vectors; ++k) {
        const int64_t at = r * size + i + k * lanes;
        const Vec<T> v = load(dy + at, width);
        weight[k] = fma(v, (load(x + at, width) - center) * scale, weight[k]);
        bias[k] += v;
      }
    }
    for (int k = 0; k < vectors; ++k) {
      store(sums + i + k * lanes, weight[k], width);
      store(sums + size + i + k * lanes, bias[k], width);
    }
  };
  int64_t i = 0;
  for (; i + kVectors * lanes <= size; i += kVectors * lanes) {
    columns.template operator()<kVectors>(i, lanes);
  }
  for_each_vec<T>(
      size - i, [&](int64_t rest, int width) { columns.template operator()<1>(i + rest, width); });
}

template <typename T>
void backward(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* mean, const T* rstd,
              const T* weight, int64_t rows, int64_t size) {
  const int64_t grain = rows_per_block(size), blocks = ceil_div(rows, grain);
  const bool sum_rows = dweight || dbias;
  const Workspace<T> partial(sum_rows ? blocks * 2 * size : 0);
  parallel_for(blocks, [&](int64_t block) {
    const int64_t begin = block * grain, end = begin + grain < rows ? begin + grain : rows;
    if (dx) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t at = r * size;
        row_gradient(dx + at, dy + at, x + at, mean[r], rstd[r], weight, size);
      }
    }
    if (sum_rows) {
      weight_sums(partial.data() + block * 2 * size, dy + begin * size, x + begin * size,
                  mean + begin, rstd + begin, end - begin, size);
    }
  });
  if (!sum_rows) return;
  parallel_ranges(size, ceil_div(kGrain, blocks + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double weight_sum = 0, bias_sum = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        weight_sum += static_cast<double>(partial.data()[block * 2 * size + i]);
        bias_sum += static_cast<double>(partial.data()[block * 2 * size + size + i]);
      }
      if (dweight) dweight[i] = static_cast<T>(weight_sum);
      if (dbias) dbias[i] = static_cast<T>(bias_sum);
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(LayerNormKernels, layer_norm_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
