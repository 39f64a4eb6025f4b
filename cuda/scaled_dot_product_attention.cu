// y = softmax(scale * query key^T + mask) value, and its gradients, without the (L, S) scores in
// memory: FlashAttention-2 (Dao, 2023) with plain multiplications, for every dtype, shape and
// alignment. scaled_dot_product_attention_mma.cu is faster where it fits.
//
// Blocks of 64 rows by 128 columns of a result (64 in double) are owned by one block of threads,
// past which the other operand streams in tiles of 64 rows: forward and dquery own queries, dkey
// and dvalue own keys. Wider results have their scores made anew for each 128 columns. Bound by
// multiplications: 2 L S (E + Ev) flops forward, 7 / 2 as many backward.
#include "cuda/scaled_dot_product_attention.h"

#include "cuda/attention_tiles.h"
#include "cuda/reduce.h"
#include "cuda/scaled_dot_product_attention_mma.h"

namespace fastdl::cuda {
namespace {

// Tiles of a result's columns that a thread's registers hold.
template <typename C>
constexpr int kChunks = sizeof(C) == 8 ? 1 : 2;

// Which part of the work a block does.
struct Part {
  int64_t matrix, row, col;  // the first it owns
};
struct Parts {
  int64_t width, row_blocks, column_blocks, count;

  Parts(int64_t matrices, int64_t rows, int64_t columns, int chunks)
      : width(chunks * kTile),
        row_blocks(ceil_div<int64_t>(rows, kTile)),
        column_blocks(std::max<int64_t>(ceil_div(columns, width), 1)),
        count(matrices * row_blocks * column_blocks) {}

  __device__ Part part(int64_t block) const {
    const int64_t rest = block / column_blocks;
    return {rest / row_blocks, rest % row_blocks * kTile, block % column_blocks * width};
  }
};

// A result's columns from col, of thread rows first_row + row_step i.
template <typename T, typename C>
__device__ void store_rows(T* y, const C (&sum)[kChunks<C>][4][4], const C (&factor)[4],
                           int64_t first_row, int row_step, int64_t rows, int64_t col,
                           int64_t cols) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t r = first_row + row_step * i;
#pragma unroll
    for (int chunk = 0; chunk < kChunks<C>; ++chunk) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t c = col + chunk * kTile + 4 * tile_col() + j;
        if (r < rows && c < cols) y[r * cols + c] = narrow<T>(sum[chunk][i][j] * factor[i]);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    forward_kernel(T* y, Compute<T>* logsumexp, AttentionProblem<T> a, Parts parts) {
  using C = Compute<T>;
  C* const a_tile = dynamic_shared<C>();
  C *const b_tile = a_tile + kTile * kLine, *const p_tile = b_tile + kTile * kLine;
  // The last rows first: when causal they take longest.
  const Part part = parts.part(parts.count - 1 - blockIdx.x);
  const AttentionProduct<T> product(a, part.matrix);
  C sum[kChunks<C>][4][4] = {}, largest[4], total[4] = {};
  for (C& m : largest) m = -infinity(C());

  const int64_t end = product.keys_end(part.row + kTile);
  for (int64_t j0 = 0; j0 < end; j0 += kTile) {
    C s[4][4] = {};
    multiply_rows(s, a_tile, b_tile, product.query, part.row, a.L, a.scale, product.key, j0, a.S,
                  a.E);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = tile_row() + 16 * i;
      C m = largest[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[i][j] = product.masked(s[i][j], part.row + row, j0 + tile_col() + 16 * j);
        m = Max()(m, s[i][j]);
      }
      m = warp_reduce(m, Max(), 16);
      // A query that sees no key so far has m = -inf, and exp(-inf - 0) = 0 is what it needs.
      const C shift = m == -infinity(C()) ? C(0) : m;
      const C decay = exp(largest[i] - shift);
      largest[i] = m;
      total[i] *= decay;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int col = tile_col() + 16 * j;
        const C p = exp(s[i][j] - shift);
        total[i] += p;
        p_tile[row * kLine + col] = p * product.kept(part.row + row, j0 + col);
      }
#pragma unroll
      for (auto& chunk : sum) {
#pragma unroll
        for (int j = 0; j < 4; ++j) chunk[i][j] *= decay;
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < kChunks<C>; ++chunk) {
      const int64_t col = part.col + chunk * kTile;
      if (col >= a.Ev) break;
      __syncthreads();
      load_tile(b_tile, product.value, j0, a.S, col, a.Ev, C(1));
      __syncthreads();
      add_rows_by_columns(sum[chunk], p_tile, b_tile, tile_count(j0, a.S));
    }
    __syncthreads();  // p_tile is read
  }

  C factor[4];
  const bool writes_logsumexp = part.col == 0 && product.writes_logsumexp();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const C t = warp_reduce(total[i], Sum(), 16);
    factor[i] = t == 0 ? C(1) : 1 / t;  // no key to attend to
    const int64_t row = part.row + tile_row() + 16 * i;
    if (writes_logsumexp && tile_col() == 0 && row < a.L) {
      logsumexp[product.scores * a.L + row] = t == 0 ? C(0) : largest[i] + log(t);
    }
  }
  store_rows(y + product.at * a.L * a.Ev, sum, factor, part.row + tile_row(), 16, a.L, part.col,
             a.Ev);
}

// A warp a query. Where S differs from the type computed in, logsumexp is a caller's copy.
template <typename T, typename S>
__global__ void statistics_kernel(RowStatistics<Compute<T>>* statistics, const T* dy, const T* y,
                                  const S* logsumexp, AttentionProblem<T> a) {
  using C = Compute<T>;
  const int64_t rows = a.batches.count * a.L;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = int64_t{gridDim.x} * blockDim.x / kWarp;
  for (int64_t r = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp; r < rows; r += warps) {
    C sum = 0;
    for (int64_t c = lane; c < a.Ev; c += kWarp) {
      sum = fma(widen(dy[r * a.Ev + c]), widen(y[r * a.Ev + c]), sum);
    }
    sum = warp_reduce(sum, Sum());
    if (lane == 0) {
      const int64_t scores = matrix_of(a.batches.scores, a.batches, r / a.L);
      statistics[r] = {widen(logsumexp[scores * a.L + r % a.L]), sum};
    }
  }
}

// Of the queries from i0 and the keys from j0:
//   p = exp(s - logsumexp) * factors,  ds = exp(s - logsumexp) * (dy value^T * factors - delta)
template <typename T, typename C = Compute<T>>
__device__ void gradient_tile(C (&p)[4][4], C (&ds)[4][4], C* a_tile, C* b_tile,
                              const AttentionProduct<T>& product, const AttentionGradient<T>& g,
                              int64_t i0, int64_t j0) {
  const AttentionProblem<T>& a = product.a;
  multiply_rows(p, a_tile, b_tile, product.query, i0, a.L, a.scale, product.key, j0, a.S, a.E);
  multiply_rows(ds, a_tile, b_tile, g.dy + product.at * a.L * a.Ev, i0, a.L, C(1), product.value,
                j0, a.S, a.Ev);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t row = i0 + tile_row() + 16 * i;
    RowStatistics<C> of_row = {};
    if (row < a.L) of_row = g.statistics[product.at * a.L + row];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t col = j0 + tile_col() + 16 * j;
      const C e = exp(product.masked(p[i][j], row, col) - of_row.logsumexp);
      const C factor = product.kept(row, col);
      ds[i][j] = e * (ds[i][j] * factor - of_row.delta);
      p[i][j] = e * factor;
    }
  }
}

template <typename C>
__device__ void store_tile(C* tile, const C (&values)[4][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      tile[(tile_row() + 16 * i) * kLine + tile_col() + 16 * j] = values[i][j];
    }
  }
}

// dquery = scale * the sum over keys, and over the products with this query, of ds key
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    backward_query_kernel(T* dquery, AttentionProblem<T> a, AttentionGradient<T> g, Parts parts) {
  using C = Compute<T>;
  C* const a_tile = dynamic_shared<C>();
  C *const b_tile = a_tile + kTile * kLine, *const ds_tile = b_tile + kTile * kLine;
  const Part part = parts.part(parts.count - 1 - blockIdx.x);
  C sum[kChunks<C>][4][4] = {};
  const int64_t members = a.batches.count / a.batches.query.count;
  for (int64_t member = 0; member < members; ++member) {
    const AttentionProduct<T> product(a,
                                      product_of(a.batches.query, a.batches, part.matrix, member));
    const int64_t end = product.keys_end(part.row + kTile);
    for (int64_t j0 = 0; j0 < end; j0 += kTile) {
      C p[4][4] = {}, ds[4][4] = {};
      gradient_tile(p, ds, a_tile, b_tile, product, g, part.row, j0);
      store_tile(ds_tile, ds);
#pragma unroll
      for (int chunk = 0; chunk < kChunks<C>; ++chunk) {
        const int64_t col = part.col + chunk * kTile;
        if (col >= a.E) break;
        __syncthreads();
        load_tile(b_tile, product.key, j0, a.S, col, a.E, C(1));
        __syncthreads();
        add_rows_by_columns(sum[chunk], ds_tile, b_tile, tile_count(j0, a.S));
      }
      __syncthreads();  // ds_tile is read
    }
  }
  const C factor[4] = {a.scale, a.scale, a.scale, a.scale};
  store_rows(dquery + part.matrix * a.L * a.E, sum, factor, part.row + tile_row(), 16, a.L,
             part.col, a.E);
}

// dkey = the sum over queries, and over the products with this matrix, of ds^T (scale query);
// dvalue that of p^T dy. Either may be null.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    backward_key_value_kernel(T* dkey, T* dvalue, AttentionProblem<T> a, AttentionGradient<T> g,
                              Parts parts) {
  using C = Compute<T>;
  C* const a_tile = dynamic_shared<C>();
  C *const b_tile = a_tile + kTile * kLine, *const p_tile = b_tile + kTile * kLine;
  C* const ds_tile = p_tile + kTile * kLine;
  const Part part = parts.part(blockIdx.x);
  const AttentionOperand& owned = dkey ? a.batches.key : a.batches.value;
  C dkey_sum[kChunks<C>][4][4] = {}, dvalue_sum[kChunks<C>][4][4] = {};
  const int64_t members = a.batches.count / owned.count;
  for (int64_t member = 0; member < members; ++member) {
    const AttentionProduct<T> product(a, product_of(owned, a.batches, part.matrix, member));
    const T* const dy = g.dy + product.at * a.L * a.Ev;
    for (int64_t i0 = a.is_causal ? part.row : 0; i0 < a.L; i0 += kTile) {
      C p[4][4] = {}, ds[4][4] = {};
      gradient_tile(p, ds, a_tile, b_tile, product, g, i0, part.row);
      store_tile(p_tile, p);
      store_tile(ds_tile, ds);
#pragma unroll
      for (int chunk = 0; chunk < kChunks<C>; ++chunk) {
        const int64_t col = part.col + chunk * kTile;
        __syncthreads();
        if (dvalue && col < a.Ev) load_tile(a_tile, dy, i0, a.L, col, a.Ev, C(1));
        if (dkey && col < a.E) load_tile(b_tile, product.query, i0, a.L, col, a.E, a.scale);
        __syncthreads();
        const int64_t count = tile_count(i0, a.L);
        if (dvalue && col < a.Ev) {
          add_columns_by_columns(dvalue_sum[chunk], p_tile, a_tile, count);
        }
        if (dkey && col < a.E) add_columns_by_columns(dkey_sum[chunk], ds_tile, b_tile, count);
      }
      __syncthreads();  // p_tile and ds_tile are read
    }
  }
  const C one[4] = {1, 1, 1, 1};
  const int64_t row = part.row + 4 * tile_row();
  if (dkey) {
    store_rows(dkey + part.matrix * a.S * a.E, dkey_sum, one, row, 1, a.S, part.col, a.E);
  }
  if (dvalue) {
    store_rows(dvalue + part.matrix * a.S * a.Ev, dvalue_sum, one, row, 1, a.S, part.col, a.Ev);
  }
}

// The gradient of an additive mask: ds, summed over what the mask was broadcast along, in double,
// for such a sum may be over all the batch. A block owns 64 x 64 scores of a mask, or all rows or
// columns of them where one element of it serves all.
template <typename T, typename M>
__global__ void __launch_bounds__(kTileThreads)
    backward_mask_kernel(M* dmask, AttentionProblem<T> a, AttentionGradient<T> g,
                         int64_t row_blocks, int64_t column_blocks) {
  using C = Compute<T>;
  C* const a_tile = dynamic_shared<C>();
  C* const b_tile = a_tile + kTile * kLine;
  const int64_t matrix = blockIdx.x / (row_blocks * column_blocks);
  const int64_t first_row = blockIdx.x / column_blocks % row_blocks * kTile;
  const int64_t first_col = blockIdx.x % column_blocks * kTile;
  const bool all_rows = a.mask_row_stride == 0, all_cols = a.mask_col_stride == 0;
  const int64_t rows_end = all_rows ? a.L : first_row + 1,
                cols_end = all_cols ? a.S : first_col + 1;
  double sum[4][4] = {};
  const int64_t members = a.batches.count / a.batches.mask.count;
  for (int64_t member = 0; member < members; ++member) {
    const AttentionProduct<T> product(a, product_of(a.batches.mask, a.batches, matrix, member));
    for (int64_t i0 = first_row; i0 < rows_end; i0 += kTile) {
      for (int64_t j0 = first_col; j0 < cols_end; j0 += kTile) {
        C p[4][4] = {}, ds[4][4] = {};
        gradient_tile(p, ds, a_tile, b_tile, product, g, i0, j0);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += ds[i][j];
        }
      }
    }
  }
  __syncthreads();
  double* const sums = dynamic_shared<double>();
  store_tile(sums, sum);
  __syncthreads();
  const int height = all_rows ? 1 : kTile, width = all_cols ? 1 : kTile;
  for (int k = static_cast<int>(threadIdx.x); k < height * width; k += kTileThreads) {
    double total = 0;
    for (int r = k / width; r < kTile; r += height) {
      for (int c = k % width; c < kTile; c += width) total += sums[r * kLine + c];
    }
    const int64_t i = first_row + k / width, j = first_col + k % width;
    if ((all_rows || i < a.L) && (all_cols || j < a.S)) {
      dmask[matrix * a.mask_size + i * a.mask_row_stride + j * a.mask_col_stride] =
          narrow<M>(static_cast<Compute<M>>(total));
    }
  }
}

template <typename T>
__global__ void zero_kernel(T* p, int64_t n) {
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < n; i += int64_t{gridDim.x} * blockDim.x) p[i] = 0;
}

template <typename T>
void fill_zero(const Device& device, T* p, int64_t n) {
  const int64_t blocks = std::min<int64_t>(ceil_div<int64_t>(n, 256), 1024);
  if (n > 0) launch(device, {static_cast<unsigned>(blocks), 256}, zero_kernel<T>, p, n);
}

// Starts a kernel with `tiles` tiles of numbers of so many bytes.
template <typename... Parameters, typename... Arguments>
void launch_tiles(const Device& device, int64_t blocks, size_t tiles, size_t number,
                  void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (blocks == 0) return;
  fastdl::check(blocks <= kMaxBlocks, "scaled_dot_product_attention", "needs ", blocks,
                " blocks of threads, more than a GPU takes");
  launch(device, {static_cast<unsigned>(blocks), kTileThreads, tiles * kTile * kLine * number},
         kernel, arguments...);
}

template <typename T>
void statistics(const Device& device, RowStatistics<Compute<T>>* to, const Tensor& dy,
                const Tensor& y, const Tensor& logsumexp, const AttentionProblem<T>& problem) {
  constexpr int kThreads = 256;
  const int64_t rows = problem.batches.count * problem.L;
  const int64_t blocks = std::min(ceil_div<int64_t>(rows, kThreads / kWarp), kMaxBlocks);
  const Grid grid{static_cast<unsigned>(blocks), kThreads};
  const auto run = [&]<typename S>(const S* logsumexp) {
    launch(device, grid, statistics_kernel<T, S>, to, dy.ptr<T>(), y.ptr<T>(), logsumexp, problem);
  };
  if (logsumexp.dtype == dtype_of<T>) return run(logsumexp.ptr<const T>());
  if constexpr (sizeof(T) == 2) run(logsumexp.ptr<const float>());
}

template <typename T>
void backward_mask(const Device& device, const Tensor& dmask, const AttentionProblem<T>& problem,
                   const AttentionGradient<T>& g) {
  if (dmask.numel() == 0) return;
  const int64_t row_blocks = problem.mask_row_stride ? ceil_div<int64_t>(problem.L, kTile) : 1;
  const int64_t column_blocks = problem.mask_col_stride ? ceil_div<int64_t>(problem.S, kTile) : 1;
  const int64_t blocks = problem.batches.mask.count * row_blocks * column_blocks;
  const auto run = [&]<typename M>(M* to) {
    launch_tiles(device, blocks, 2, sizeof(double), backward_mask_kernel<T, M>, to, problem, g,
                 row_blocks, column_blocks);
  };
  if (dmask.dtype == dtype_of<T>) return run(dmask.ptr<T>());
  if constexpr (sizeof(T) == 2) run(dmask.ptr<float>());
}

// The kernels of this file, by the names of those on matrix units.
template <typename T>
struct AttentionTiles {
  using C = Compute<T>;
  const Device& device;
  const Attention& attention;

  void forward(T* y, C* logsumexp) const {
    const Parts parts(attention.batches.count, attention.L, attention.Ev, kChunks<C>);
    launch_tiles(device, parts.count, 3, sizeof(C), forward_kernel<T>, y, logsumexp,
                 AttentionProblem<T>(attention), parts);
  }
  void backward_query(T* dquery, const AttentionGradient<T>& g) const {
    const Parts parts(attention.batches.query.count, attention.L, attention.E, kChunks<C>);
    launch_tiles(device, parts.count, 3, sizeof(C), backward_query_kernel<T>, dquery,
                 AttentionProblem<T>(attention), g, parts);
  }
  void backward_key_value(T* dkey, T* dvalue, const AttentionGradient<T>& g) const {
    const AttentionBatches& b = attention.batches;
    const int64_t columns =
        std::max(dkey ? attention.E : int64_t{0}, dvalue ? attention.Ev : int64_t{0});
    const Parts parts(dkey ? b.key.count : b.value.count, attention.S, columns, kChunks<C>);
    launch_tiles(device, parts.count, 4, sizeof(C), backward_key_value_kernel<T>, dkey, dvalue,
                 AttentionProblem<T>(attention), g, parts);
  }
};

// Calls body(kernels) with those that take the call.
template <typename T, typename Body>
void with_kernels(const Device& device, const Attention& attention,
                  std::initializer_list<const Tensor*> others, Body&& body) {
  if constexpr (sizeof(T) == 2) {
    if (fits_mma(attention, others)) return body(AttentionMma<T>{device, attention});
  }
  body(AttentionTiles<T>{device, attention});
}

}  // namespace

void ScaledDotProductAttention::forward(const Tensor& y, const Tensor& logsumexp,
                                        const Attention& attention) const {
  dispatch(attention.query.dtype, [&]<typename T>() {
    using C = Compute<T>;
    if (attention.batches.count == 0) {
      return fill_zero(device, logsumexp.ptr<C>(), logsumexp.numel());
    }
    with_kernels<T>(device, attention, {&y},
                    [&](const auto& kernels) { kernels.forward(y.ptr<T>(), logsumexp.ptr<C>()); });
  });
}

void ScaledDotProductAttention::backward(std::array<const Tensor*, 4> gradients, const Tensor& dy,
                                         const Tensor& y, const Tensor& logsumexp,
                                         const Attention& attention) const {
  const auto [dquery, dkey, dvalue, dmask] = gradients;
  const AttentionBatches& b = attention.batches;
  const bool together =
      b.key.count == b.value.count && std::equal(b.key.own, b.key.own + b.ndim, b.value.own);
  dispatch(attention.query.dtype, [&]<typename T>() {
    const AttentionProblem<T> problem(attention);
    const int64_t rows = b.count * attention.L;
    const Workspace<RowStatistics<Compute<T>>> of_rows(rows);
    if (rows > 0) statistics(device, of_rows.data(), dy, y, logsumexp, problem);
    const AttentionGradient<T> g{dy.ptr<T>(), of_rows.data()};
    if (dmask) backward_mask(device, *dmask, problem, g);
    T *const dq = ptr_or_null<T>(dquery), *const dk = ptr_or_null<T>(dkey),
             *const dv = ptr_or_null<T>(dvalue);
    with_kernels<T>(device, attention, {&dy, dquery, dkey, dvalue}, [&](const auto& kernels) {
      if (dq) kernels.backward_query(dq, g);
      if (together && dk && dv) return kernels.backward_key_value(dk, dv, g);
      if (dk) kernels.backward_key_value(dk, nullptr, g);
      if (dv) kernels.backward_key_value(nullptr, dv, g);
    });
  });
}

}  // namespace fastdl::cuda
