// Attention in bfloat16 and float16 on the matrix units of sm_80: FlashAttention-2 (Dao, 2023).
//
// A block of four warps owns 64 or 128 queries (forward), or 64 queries or keys (backward): each
// warp 16 rows, or 32, of which it keeps the result in registers. The other operand streams past in
// tiles of 64 rows, the next one copied while one is worked on. The scores of a warp, rounded, are
// the left operand of the next product as they lie in its registers. Backward makes them again for
// dquery and for dkey and dvalue: seven products instead of five, and no atomics.
//
// Bound by the matrix units, 4 L S D flops forward and 14 L S D backward, and by the exponentials.
#include "cuda/scaled_dot_product_attention_mma.h"

#include <cmath>

#include "cuda/attention_mma.h"
#include "cuda/reduce.h"

namespace fastdl::cuda {
namespace {

// kGeneral kernels know masks and dropout; the others causal alone. The scores are multiplied by
// `factor` for powers of two.
template <bool kGeneral, typename T>
__device__ float exponent_factor(const AttentionProblem<T>& a) {
  return kGeneral ? kLog2E : a.scale * kLog2E;
}

// Which scores count of those of queries from i0 and keys from j0, where there is no mask: 32 bits
// are enough then.
struct Visible {
  int keys, diagonal;

  template <typename T>
  __device__ Visible(const AttentionProblem<T>& a, int64_t i0, int64_t j0)
      : keys(static_cast<int>(a.S - j0 < kMmaTile ? a.S - j0 : kMmaTile)),
        diagonal(a.is_causal && i0 - j0 < kMmaTile ? static_cast<int>(i0 - j0) : kMmaTile) {}
  // For query i0 + i and key j0 + j.
  __device__ float masked(float s, int i, int j) const {
    return j < keys && j <= i + diagonal ? s : -infinity(0.0f);
  }
  __device__ bool all() const { return keys == kMmaTile && diagonal >= kMmaTile - 1; }
};

__device__ inline int tile_count(int64_t rows) {
  return static_cast<int>(ceil_div<int64_t>(rows, kMmaTile));
}
__device__ inline float quad_max(float x) { return warp_reduce(x, Max(), 4); }
__device__ inline float quad_sum(float x) { return warp_reduce(x, Sum(), 4); }

template <typename T, int kWidth, int M, bool kGeneral>
__global__ void __launch_bounds__(kMmaThreads)
    mma_forward_kernel(T* y, float* logsumexp, AttentionProblem<T> a, int64_t row_blocks) {
  constexpr int kRows = 16 * M * kMmaWarps, kElements = kMmaTile * kWidth;
  T* const query_tile = dynamic_shared<T>();
  T* const stages = query_tile + kRows * kWidth;  // key and value, twice
  const AttentionProduct<T> product(a, blockIdx.x / row_blocks);
  // The last rows first: when causal they take longest.
  const int64_t row = (row_blocks - 1 - blockIdx.x % row_blocks) * kRows;
  const int warp_row = warp_id() * 16 * M;
  const int tiles = tile_count(product.keys_end(row + kRows));
  const auto fetch = [&](int next) {
    if (next < tiles) {
      T* const tile = stages + next % 2 * 2 * kElements;
      copy_rows<kMmaTile, kWidth>(tile, product.key, int64_t{next} * kMmaTile, a.S, a.E);
      copy_rows<kMmaTile, kWidth>(tile + kElements, product.value, int64_t{next} * kMmaTile, a.S,
                                  a.Ev);
    }
    copy_commit();
  };
  copy_rows<kRows, kWidth>(query_tile, product.query, row, a.L, a.E);
  fetch(0);

  const float factor = exponent_factor<kGeneral>(a);
  float sum[M][kWidth / 8][4] = {}, largest[M][2], total[M][2] = {};
  for (auto& m : largest) m[0] = m[1] = -infinity(0.0f);
  for (int tile = 0; tile < tiles; ++tile) {
    copy_wait<0>();
    __syncthreads();  // all have this tile, and are done with the one before
    fetch(tile + 1);
    const int64_t j0 = int64_t{tile} * kMmaTile;
    if (a.is_causal && j0 >= row + warp_row + 16 * M) continue;
    const T* const key_tile = stages + tile % 2 * 2 * kElements;
    float s[M][kMmaTile / 8][4] = {};
    multiply_rows<kWidth>(s, query_tile, warp_row, key_tile);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const int64_t first = row + warp_row + 16 * m;
      if (const Visible visible(a, first, j0); kGeneral) {
        for_each_score([&](int n, int c, int r, int col) {
          s[m][n][c] = product.masked(s[m][n][c] * a.scale, first + r, j0 + col);
        });
      } else if (!visible.all()) {
        for_each_score(
            [&](int n, int c, int r, int col) { s[m][n][c] = visible.masked(s[m][n][c], r, col); });
      }
      float shift[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = largest[m][half];
#pragma unroll
        for (int n = 0; n < kMmaTile / 8; ++n) {
          top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        top = quad_max(top);
        // A query that sees no key so far has -inf, and 2^(-inf - 0) = 0 is what it needs.
        shift[half] = top == -infinity(0.0f) ? 0.0f : top * factor;
        const float decay = exp2_approximate(largest[m][half] * factor - shift[half]);
        largest[m][half] = top;
        total[m][half] *= decay;
        if (__any_sync(kAllLanes, decay != 1.0f)) {  // rare once the first keys are seen
#pragma unroll
          for (int n = 0; n < kWidth / 8; ++n) {
            sum[m][n][2 * half] *= decay;
            sum[m][n][2 * half + 1] *= decay;
          }
        }
      }
      for_each_score([&](int n, int c, int r, int col) {
        const float p = exp2_approximate(fmaf(s[m][n][c], factor, -shift[c / 2]));
        total[m][c / 2] += p;
        s[m][n][c] = kGeneral ? p * product.kept(first + r, j0 + col) : p;
      });
    }
    multiply_columns<kWidth>(sum, s, key_tile + kElements);
  }

  copy_wait<0>();
  __syncthreads();  // the tile of the queries is free
  // Found again, as no register is left over in the loop to keep it.
  const AttentionProduct<T> of_result(a, blockIdx.x / row_blocks);
  const bool writes_logsumexp = of_result.writes_logsumexp();
  float inverse[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float t = quad_sum(total[m][half]);
      inverse[m][half] = t == 0 ? 1.0f : 1 / t;  // no key to attend to
      const int64_t i = row + warp_row + 16 * m + 8 * half + lane_id() / 4;
      if (writes_logsumexp && lane_id() % 4 == 0 && i < a.L) {
        logsumexp[of_result.scores * a.L + i] =
            t == 0 ? 0.0f : largest[m][half] * factor * kLn2 + logf(t);
      }
    }
  }
  store_rows<kWidth>(y + of_result.at * a.L * a.Ev, query_tile, sum, inverse, warp_row, row, a.L,
                     a.Ev);
}

template <typename T, int kWidth, bool kGeneral>
__global__ void __launch_bounds__(kMmaThreads)
    mma_backward_query_kernel(T* dquery, AttentionProblem<T> a, AttentionGradient<T> gradient,
                              int64_t row_blocks) {
  constexpr int kElements = kMmaTile * kWidth;
  T* const query_tile = dynamic_shared<T>();
  T *const dy_tile = query_tile + kElements, *const stages = dy_tile + kElements;
  const int64_t matrix = blockIdx.x / row_blocks;
  const int64_t row = (row_blocks - 1 - blockIdx.x % row_blocks) * kMmaTile;
  const int warp_row = warp_id() * 16;
  const float factor = exponent_factor<kGeneral>(a);
  float sum[1][kWidth / 8][4] = {};
  const int64_t members = a.batches.count / a.batches.query.count;
  for (int64_t member = 0; member < members; ++member) {
    const AttentionProduct<T> product(a, product_of(a.batches.query, a.batches, matrix, member));
    const int64_t end = product.keys_end(row + kMmaTile);
    const auto fetch = [&](int64_t j0, int stage) {
      if (j0 < end) {
        T* const tile = stages + stage * 2 * kElements;
        copy_rows<kMmaTile, kWidth>(tile, product.key, j0, a.S, a.E);
        copy_rows<kMmaTile, kWidth>(tile + kElements, product.value, j0, a.S, a.Ev);
      }
      copy_commit();
    };
    __syncthreads();  // the tiles of the member before are read
    if (member == 0) copy_rows<kMmaTile, kWidth>(query_tile, product.query, row, a.L, a.E);
    copy_rows<kMmaTile, kWidth>(dy_tile, gradient.dy + product.at * a.L * a.Ev, row, a.L, a.Ev);
    fetch(0, 0);
    float shift[2], delta[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t i = row + warp_row + 8 * half + lane_id() / 4;
      RowStatistics<float> of_row = {};
      if (i < a.L) of_row = gradient.statistics[product.at * a.L + i];
      shift[half] = of_row.logsumexp * kLog2E;
      delta[half] = of_row.delta;
    }
    int stage = 0;
    for (int64_t j0 = 0; j0 < end; j0 += kMmaTile, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();
      fetch(j0 + kMmaTile, stage ^ 1);
      const T* const key_tile = stages + stage * 2 * kElements;
      float p[1][kMmaTile / 8][4] = {}, ds[1][kMmaTile / 8][4] = {};
      multiply_rows<kWidth>(p, query_tile, warp_row, key_tile);
      multiply_rows<kWidth>(ds, dy_tile, warp_row, key_tile + kElements);
      const Visible visible(a, row + warp_row, j0);
      for_each_score([&](int n, int c, int r, int col) {
        const int64_t i = row + warp_row + r, j = j0 + col;
        float s = p[0][n][c];
        s = kGeneral ? product.masked(s * a.scale, i, j) : visible.masked(s, r, col);
        const float e = exp2_approximate(fmaf(s, factor, -shift[c / 2]));
        const float dp = kGeneral ? ds[0][n][c] * product.kept(i, j) : ds[0][n][c];
        ds[0][n][c] = e * (dp - delta[c / 2]);
      });
      multiply_columns<kWidth>(sum, ds, key_tile);
    }
  }
  copy_wait<0>();
  __syncthreads();
  const float scale[1][2] = {{a.scale, a.scale}};
  store_rows<kWidth>(dquery + matrix * a.L * a.E, query_tile, sum, scale, warp_row, row, a.L, a.E);
}

// Queries of a tile that streams past keys: as many as the registers of a thread allow.
constexpr int query_tile_rows(int width) { return width == 64 ? 64 : 32; }

// The tiles are those of the transposed scores: rows are keys, columns queries. Queries beyond the
// last are zeros, and so is what they add.
template <typename T, int kWidth, bool kGeneral>
__global__ void __launch_bounds__(kMmaThreads)
    mma_backward_key_value_kernel(T* dkey, T* dvalue, AttentionProblem<T> a,
                                  AttentionGradient<T> gradient, int64_t row_blocks) {
  constexpr int kElements = kMmaTile * kWidth;
  constexpr int kQueries = query_tile_rows(kWidth), N = kQueries / 8;
  constexpr int kStaged = kQueries * kWidth;
  T* const key_tile = dynamic_shared<T>();
  T *const value_tile = key_tile + kElements, *const stages = value_tile + kElements;
  auto* const statistics = reinterpret_cast<RowStatistics<float>*>(stages + 4 * kStaged);
  const int64_t matrix = blockIdx.x / row_blocks, row = blockIdx.x % row_blocks * kMmaTile;
  const int warp_row = warp_id() * 16;
  const float factor = exponent_factor<kGeneral>(a);
  const AttentionOperand& owned = dkey ? a.batches.key : a.batches.value;
  float dkey_sum[1][kWidth / 8][4] = {}, dvalue_sum[1][kWidth / 8][4] = {};
  const int64_t members = a.batches.count / owned.count;
  for (int64_t member = 0; member < members; ++member) {
    const AttentionProduct<T> product(a, product_of(owned, a.batches, matrix, member));
    const auto fetch = [&](int64_t i0, int stage) {
      if (i0 < a.L) {
        T* const tile = stages + stage * 2 * kStaged;
        const int64_t first = product.at * a.L;
        copy_rows<kQueries, kWidth>(tile, product.query, i0, a.L, a.E);
        copy_rows<kQueries, kWidth>(tile + kStaged, gradient.dy + first * a.Ev, i0, a.L, a.Ev);
        const int r = static_cast<int>(threadIdx.x);
        if (r < kQueries) {
          const bool inside = i0 + r < a.L;
          copy_async<8>(statistics + stage * kQueries + r,
                        gradient.statistics + (inside ? first + i0 + r : 0), inside ? 8 : 0);
        }
      }
      copy_commit();
    };
    __syncthreads();  // the tiles of the member before are read
    copy_rows<kMmaTile, kWidth>(key_tile, product.key, row, a.S, a.E);
    copy_rows<kMmaTile, kWidth>(value_tile, product.value, row, a.S, a.Ev);
    const int64_t begin = a.is_causal ? row : 0;
    fetch(begin, 0);
    int stage = 0;
    for (int64_t i0 = begin; i0 < a.L; i0 += kQueries, stage ^= 1) {
      copy_wait<0>();
      __syncthreads();
      fetch(i0 + kQueries, stage ^ 1);
      const T* const query_tile = stages + stage * 2 * kStaged;
      const RowStatistics<float>* const of_rows = statistics + stage * kQueries;
      float p[1][N][4] = {}, ds[1][N][4] = {};
      multiply_rows<kWidth>(p, key_tile, warp_row, query_tile);
      const Visible visible(a, i0, row + warp_row);
      for_each_score<N>([&](int n, int c, int r, int col) {
        float s = p[0][n][c];
        if constexpr (kGeneral) {
          s = product.masked(s * a.scale, i0 + col, row + warp_row + r);
        } else {
          s = visible.masked(s, col, r);
        }
        p[0][n][c] = exp2_approximate(fmaf(s, factor, -of_rows[col].logsumexp * kLog2E));
      });
      multiply_rows<kWidth>(ds, value_tile, warp_row, query_tile + kStaged);
      for_each_score<N>([&](int n, int c, int r, int col) {
        const float kept = kGeneral ? product.kept(i0 + col, row + warp_row + r) : 1.0f;
        ds[0][n][c] = p[0][n][c] * (ds[0][n][c] * kept - of_rows[col].delta);
        p[0][n][c] *= kept;
      });
      multiply_columns<kWidth>(dvalue_sum, p, query_tile + kStaged);
      multiply_columns<kWidth>(dkey_sum, ds, query_tile);
    }
  }
  copy_wait<0>();
  __syncthreads();
  if (dkey) {
    const float scale[1][2] = {{a.scale, a.scale}};
    store_rows<kWidth>(dkey + matrix * a.S * a.E, key_tile, dkey_sum, scale, warp_row, row, a.S,
                       a.E);
  }
  if (dvalue) {
    const float one[1][2] = {{1.0f, 1.0f}};
    store_rows<kWidth>(dvalue + matrix * a.S * a.Ev, value_tile, dvalue_sum, one, warp_row, row,
                       a.S, a.Ev);
  }
}

// Calls body.template operator()<kWidth, kGeneral>().
template <typename Body>
void dispatch_kernel(const Attention& a, Body&& body) {
  const bool is_narrow = std::max(a.E, a.Ev) <= 64;
  if (a.mask || a.dropout) {
    is_narrow ? body.template operator()<64, true>() : body.template operator()<128, true>();
  } else {
    is_narrow ? body.template operator()<64, false>() : body.template operator()<128, false>();
  }
}

// The grid for so many rows of each matrix, and tiles of 64 rows in shared memory.
Grid mma_grid(int64_t matrices, int64_t row_blocks, int tiles, int width, size_t more = 0) {
  fastdl::check(matrices * row_blocks <= kMaxBlocks, "scaled_dot_product_attention", "needs ",
                matrices * row_blocks, " blocks of threads, more than a GPU takes");
  return {static_cast<unsigned>(matrices * row_blocks), kMmaThreads,
          static_cast<size_t>(tiles * kMmaTile * width) * 2 + more};
}

}  // namespace

bool fits_mma(const Attention& a, std::initializer_list<const Tensor*> others) {
  const auto fits = [](const Tensor* x) { return !x || is_aligned(x->data); };
  return is_half(a.query.dtype) && a.E % kChunk == 0 && a.Ev % kChunk == 0 && 0 < a.E &&
         a.E <= 128 && 0 < a.Ev && a.Ev <= 128 && a.scale > 0 && std::isfinite(a.scale) &&
         fits(&a.query) && fits(&a.key) && fits(&a.value) &&
         std::all_of(others.begin(), others.end(), fits);
}

template <typename T>
void AttentionMma<T>::forward(T* y, float* logsumexp) const {
  dispatch_kernel(attention, [&]<int kWidth, bool kGeneral>() {
    constexpr int M = kGeneral ? 1 : 2;
    const int64_t row_blocks = ceil_div<int64_t>(attention.L, M * kMmaTile);
    launch(device, mma_grid(attention.batches.count, row_blocks, M + 4, kWidth),
           mma_forward_kernel<T, kWidth, M, kGeneral>, y, logsumexp, AttentionProblem<T>(attention),
           row_blocks);
  });
}

template <typename T>
void AttentionMma<T>::backward_query(T* dquery, const AttentionGradient<T>& gradient) const {
  const int64_t row_blocks = ceil_div<int64_t>(attention.L, kMmaTile);
  if (attention.batches.query.count * row_blocks == 0) return;
  dispatch_kernel(attention, [&]<int kWidth, bool kGeneral>() {
    launch(device, mma_grid(attention.batches.query.count, row_blocks, 6, kWidth),
           mma_backward_query_kernel<T, kWidth, kGeneral>, dquery, AttentionProblem<T>(attention),
           gradient, row_blocks);
  });
}

template <typename T>
void AttentionMma<T>::backward_key_value(T* dkey, T* dvalue,
                                         const AttentionGradient<T>& gradient) const {
  const AttentionBatches& b = attention.batches;
  const int64_t matrices = dkey ? b.key.count : b.value.count;
  const int64_t row_blocks = ceil_div<int64_t>(attention.S, kMmaTile);
  if (matrices * row_blocks == 0) return;
  dispatch_kernel(attention, [&]<int kWidth, bool kGeneral>() {
    constexpr int kQueries = query_tile_rows(kWidth);
    constexpr size_t kStatistics = 2 * kQueries * sizeof(RowStatistics<float>);
    launch(device, mma_grid(matrices, row_blocks, 2 + 4 * kQueries / kMmaTile, kWidth, kStatistics),
           mma_backward_key_value_kernel<T, kWidth, kGeneral>, dkey, dvalue,
           AttentionProblem<T>(attention), gradient, row_blocks);
  });
}

template struct AttentionMma<bfloat16>;
template struct AttentionMma<float16>;

}  // namespace fastdl::cuda
