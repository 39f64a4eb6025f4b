// y = (x - mean) * rstd * weight + bias for every row,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight:
// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)),  dweight = sum dy * xhat,  dbias = sum dy.
//
// A row is read from memory once and from the cache after that. dweight and dbias are sums over
// rows: blocks of rows make partial sums in the same pass, which are added in order.
#include "kernels/layer_norm.h"

#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "kernels/elementwise.h"
#include "kernels/moments.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 32768;  // elements a block: some 10 us
constexpr int64_t kMostRows = 64;  // whose sum is kept in T
constexpr int64_t kMostSums = 32;  // as long as they have less than kMostRows

// Rows of a block for the backward, whose partial sums over rows have to stay small beside x.
FASTDL_INLINE int64_t rows_per_sum(int64_t rows, int64_t size) {
  const int64_t few = kGrain / (size + 1) + 1, share = ceil_div(rows, kMostSums);
  const int64_t enough = few > share ? few : share;
  return enough < kMostRows ? enough : kMostRows;
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
  const bool past_cache = exceeds_cache(2 * rows * size * static_cast<int64_t>(sizeof(T)));
  const int64_t grain = rows / (rows * size / kGrain + 1) + 1;  // blocks of about equal size
  parallel_ranges(rows, grain, [=](int64_t begin, int64_t end) {
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
        store_map(yr, size, past_cache, [=](int64_t i, int lanes) {
          return fma(xhat(i, lanes), load(weight + i, lanes), load(bias + i, lanes));
        });
      } else {
        store_map(yr, size, past_cache, [=](int64_t i, int lanes) {
          Vec<T> v = xhat(i, lanes);
          if (weight) v = v * load(weight + i, lanes);
          if (bias) v = v + load(bias + i, lanes);
          return v;
        });
      }
    }
  });
}

// dx is (g - mean_g - xhat * mean_gx) * rstd.
template <typename T>
struct RowGradient {
  Vec<T> mean, rstd, mean_g, mean_gx;
};

template <typename T>
FASTDL_INLINE RowGradient<T> row_gradient(const T* dy, const T* x, T mean, T rstd, const T* weight,
                                          int64_t size) {
  const Pair sums = pair_sums<T>(size, [=](int64_t i, int lanes, Vec<T>& a, Vec<T>& b) {
    const Vec<T> v = load(dy + i, lanes), g = weight ? v * load(weight + i, lanes) : v;
    a += g;
    b = fma(g, (load(x + i, lanes) - broadcast(mean)) * broadcast(rstd), b);
  });
  const double count = static_cast<double>(size);
  return {broadcast(mean), broadcast(rstd), broadcast(static_cast<T>(sums.a / count)),
          broadcast(static_cast<T>(sums.b / count))};
}

// dx (unless null) of a group of rows, which adds to weight_sum = sum dy * xhat and bias_sum =
// sum dy: these are read and written once for the group.
template <int group, typename T>
FASTDL_INLINE void group_gradient(T* dx, T* weight_sum, T* bias_sum, const T* dy, const T* x,
                                  const T* mean, const T* rstd, const T* weight, int64_t size) {
  RowGradient<T> rows[group];
  for (int r = 0; r < group; ++r) {
    const int64_t at = dx ? r * size : 0;
    rows[r] = row_gradient(dy + at, x + at, mean[r], rstd[r], weight, dx ? size : 0);
  }
  for_each_vec<T>(size, [&](int64_t i, int lanes) {
    Vec<T> dweight = load(weight_sum + i, lanes), dbias = load(bias_sum + i, lanes);
    const Vec<T> w = weight ? load(weight + i, lanes) : broadcast(T(1));
#pragma GCC unroll 4
    for (int r = 0; r < group; ++r) {
      const int64_t at = r * size + i;
      const Vec<T> v = load(dy + at, lanes);

      const Vec<T> xhat = (load(x + at, lanes) - rows[r].mean) * rows[r].rstd;
      dweight = fma(v, xhat, dweight);
      dbias += v;
      if (!dx) continue;
      const Vec<T> out = fnma(xhat, rows[r].mean_gx, v * w - rows[r].mean_g) * rows[r].rstd;
      store(dx + at, out, lanes);
    }
    store(weight_sum + i, dweight, lanes);
    store(bias_sum + i, dbias, lanes);
  });
}

// out[i] = sums[i] + sums[i + stride] + ..., of `blocks` values, for n columns, in double.
template <typename T>
void add_blocks(T* out, const T* sums, int64_t n, int64_t blocks, int64_t stride) {
  constexpr int64_t kColumns = 512;
  parallel_ranges(n, kColumns, [=](int64_t begin, int64_t end) {
    double total[kColumns] = {};
    for (int64_t block = 0; block < blocks; ++block) {
      const T* row = sums + block * stride;
      for (int64_t i = begin; i < end; ++i) total[i - begin] += static_cast<double>(row[i]);
    }
    for (int64_t i = begin; i < end; ++i) out[i] = static_cast<T>(total[i - begin]);
  });
}

template <typename T>
void backward(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* mean, const T* rstd,
              const T* weight, int64_t rows, int64_t size) {
  constexpr int kGroup = 4;
  const int64_t block_rows = rows_per_sum(rows, size), blocks = ceil_div(rows, block_rows);
  const Workspace<T> partial(blocks * 2 * size);
  parallel_ranges(
      blocks, ceil_div(kGrain, block_rows * size + 1), [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) {
          T *weight_sum = partial.data() + block * 2 * size, *bias_sum = weight_sum + size;
          for (int64_t i = 0; i < 2 * size; ++i) weight_sum[i] = 0;
          int64_t r = block * block_rows;
          const int64_t end = r + block_rows < rows ? r + block_rows : rows;
          const auto gradient = [&]<int group>() {
            const int64_t at = r * size;
            group_gradient<group>(dx ? dx + at : nullptr, weight_sum, bias_sum, dy + at, x + at,
                                  mean + r, rstd + r, weight, size);
            r += group;
          };
          while (r + kGroup <= end) gradient.template operator()<kGroup>();
          while (r < end) gradient.template operator()<1>();
        }
      });
  if (dweight) add_blocks(dweight, partial.data(), size, blocks, 2 * size);
  if (dbias) add_blocks(dbias, partial.data() + size, size, blocks, 2 * size);
}

}  // namespace

FASTDL_DEFINE_KERNELS(LayerNormKernels, layer_norm_kernels, forward<T>, backward<T>)

}  // namespace fastdl::FASTDL_ISA
