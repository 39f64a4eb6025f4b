// What the Winograd convolutions share: the one-dimensional transforms, the cut of the image into
// tiles, and products of panels.
//
// F(MxM, 3x3) computes M x M outputs y of a 3x3 window g from (M + 2) x (M + 2) inputs d by
// (M + 2)^2 products:  y = A^T [(G g G^T) * (B^T d B)] A  (Lavin, Gray 2016), and so the gradient
// of the window by as many:  dg = G^T [(A dy A^T) * (B^T d B)] G. The polynomials behind it are
// interpolated at 0, 1, -1 and infinity for M = 2, and at 0, +-sqrt(1/2), +-sqrt(2) and infinity
// for M = 4: these err half as much as 0, +-1, +-2, and two of the factors are 1.
#pragma once

#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {

constexpr int kTaps = 3;

template <typename T, int M>
struct Winograd;

template <typename T>
struct Winograd<T, 2> {
  using V = Vec<T>;
  static constexpr int size = 4, points = 16;

  // B^T d
  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[size]) {
    to[0] = d[0] - d[2];
    to[1] = d[1] + d[2];
    to[2] = d[2] - d[1];
    to[3] = d[1] - d[3];
  }
  // G g
  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[kTaps]) {
    const V half = broadcast(T(0.5)), even = half * (g[0] + g[2]), odd = half * g[1];
    to[0] = g[0];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = g[2];
  }
  // A^T m
  FASTDL_INLINE static void output(V (&y)[2], const V (&m)[size]) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
  }
  // A dy
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[2]) {
    to[0] = dy[0];
    to[1] = dy[0] + dy[1];
    to[2] = dy[0] - dy[1];
    to[3] = -dy[1];
  }
  // G^T m
  FASTDL_INLINE static void weight_gradient(V (&dg)[kTaps], const V (&m)[size]) {
    const V half = broadcast(T(0.5)), even = half * (m[1] + m[2]);
    dg[0] = m[0] + even;
    dg[1] = half * (m[1] - m[2]);
    dg[2] = even + m[3];
  }
};

template <typename T>
struct Winograd<T, 4> {
  using V = Vec<T>;
  static constexpr int size = 6, points = 36;
  static constexpr T kA = T(0.70710678118654752440), kB = T(1.41421356237309504880);

  FASTDL_INLINE static void input(V (&to)[size], const V (&d)[size]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2)), sum = broadcast(T(2.5));
    const V even_a = fnma(two, d[2], d[4]), odd_a = broadcast(kA) * fnma(two, d[1], d[3]);
    const V even_b = fnma(half, d[2], d[4]), odd_b = broadcast(kB) * fnma(half, d[1], d[3]);
    to[0] = fnma(sum, d[2], d[0] + d[4]);
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = fnma(sum, d[3], d[1] + d[5]);
  }
  FASTDL_INLINE static void weight(V (&to)[size], const V (&g)[kTaps]) {
    const V even_a = broadcast(T(-2) / 3) * fma(broadcast(T(0.5)), g[2], g[0]);
    const V even_b = broadcast(T(1) / 6) * fma(broadcast(T(2)), g[2], g[0]);
    const V odd_a = broadcast(T(-2) / 3 * kA) * g[1], odd_b = broadcast(kB / 6) * g[1];
    to[0] = g[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = g[2];
  }
  FASTDL_INLINE static void output(V (&y)[4], const V (&m)[size]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
    const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = fma(broadcast(kB), odd_b, broadcast(kA) * odd_a);
    y[2] = fma(broadcast(T(2)), even_b, broadcast(T(0.5)) * even_a);
    y[3] = fma(broadcast(2 * kB), odd_b, broadcast(kA / 2) * odd_a) + m[5];
  }
  FASTDL_INLINE static void output_gradient(V (&to)[size], const V (&dy)[4]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2));
    const V even_a = fma(half, dy[2], dy[0]), odd_a = broadcast(kA) * fma(half, dy[3], dy[1]);
    const V even_b = fma(two, dy[2], dy[0]), odd_b = broadcast(kB) * fma(two, dy[3], dy[1]);
    to[0] = dy[0];
    to[1] = even_a + odd_a;
    to[2] = even_a - odd_a;
    to[3] = even_b + odd_b;
    to[4] = even_b - odd_b;
    to[5] = dy[3];
  }
  FASTDL_INLINE static void weight_gradient(V (&dg)[kTaps], const V (&m)[size]) {
    const V even_a = broadcast(T(-2) / 3) * (m[1] + m[2]);
    const V even_b = broadcast(T(1) / 6) * (m[3] + m[4]);
    const V odd_a = m[1] - m[2], odd_b = m[3] - m[4];
    dg[0] = m[0] + even_a + even_b;
    dg[1] = fma(broadcast(kB / 6), odd_b, broadcast(T(-2) / 3 * kA) * odd_a);
    dg[2] = fma(broadcast(T(2)), even_b, fma(broadcast(T(0.5)), even_a, m[5]));
  }
};

// A panel holds kPanel channels of each point of the transform, channels innermost:
// panel[point][row][channel], the rows being tiles or other channels. The vector between points
// keeps them from falling into the same sets of the cache.
constexpr int64_t kPanel = 64;
constexpr int64_t kMaxTiles = 64;  // of a block

template <typename T>
FASTDL_INLINE int64_t point_stride(int64_t rows) {
  return rows * kPanel + Vec<T>::lanes;
}

// Rows of `lanes` channels, `stride` elements apart, n elements each, to n vectors of channels; the
// channels from `rows` on are 0. Writes n rounded up to lanes vectors, the last ones 0.
template <typename T>
FASTDL_INLINE void gather_channels(T* to, const T* from, int64_t stride, int rows, int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  for_each_vec<T>(n, [&](int64_t i, int valid) {
    Vec<T> v[lanes];
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) {
      v[r] = r < rows ? load(from + r * stride + i, valid) : zero<T>();
    }
    interleave(v);
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) store(to + (i + r) * lanes, v[r]);
  });
}

// The opposite: n vectors of channels to `rows` rows. Reads n rounded up to lanes vectors.
template <typename T>
FASTDL_INLINE void scatter_channels(T* to, const T* from, int64_t stride, int rows, int64_t n) {
  constexpr int lanes = Vec<T>::lanes;
  for_each_vec<T>(n, [&](int64_t i, int valid) {
    Vec<T> v[lanes];
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) v[r] = load(from + (i + r) * lanes);
    interleave(v);
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) {
      if (r < rows) store(to + r * stride + i, v[r], valid);
    }
  });
}

// The outputs of all images in tiles of M x M, and the tiles in blocks: rows of tiles of an image,
// or parts of a row if those are too long, or several images if these are small.
struct TileBlocks {
  HeightWidth grid;
  Bands bands;
  int64_t batch, images, count;

  TileBlocks(HeightWidth out, int64_t m, int64_t batch, int64_t most)
      : grid{ceil_div(out.h, m), ceil_div(out.w, m)}, bands(grid, most), batch(batch), images(1) {
    if (bands.count == 1 && batch > 0) {
      const int64_t fit = larger(1, most / grid.area());
      images = ceil_div(batch, ceil_div(batch, fit));
    }
    count = ceil_div(batch, images) * bands.count;
  }
  // The most tiles of a block.
  int64_t most_tiles() const { return images * bands.size.area(); }
  int64_t tiles(int64_t block) const {
    const int64_t n = block / bands.count * images;
    return smaller(images, batch - n) * bands.outputs(block % bands.count);
  }
  // visit(image, first tile, tiles along h and w, number of the first tile in the block)
  template <typename Visit>
  FASTDL_INLINE void for_each_image(int64_t block, Visit&& visit) const {
    const int64_t band = block % bands.count, begin = block / bands.count * images;
    const HeightWidth first = bands.first(band);
    const HeightWidth size{smaller(bands.size.h, grid.h - first.h),
                           smaller(bands.size.w, grid.w - first.w)};
    for (int64_t i = 0; i < smaller(images, batch - begin); ++i) {
      visit(begin + i, first, size, i * size.area());
    }
  }
};

// The rows under a row of tiles, each of Size x Size elements that begin M after the one before:
// channels innermost and zero-padded. The rows that the next row of tiles reads too are kept.
template <typename T, int M, int Size>
class TileRows {
 public:
  TileRows(HeightWidth in, HeightWidth padding, T* scratch, int64_t most_tiles)
      : in_(in), padding_(padding), row_(row_size(most_tiles)), ring_(scratch) {}
  static int64_t scratch(int64_t most_tiles) { return Size * row_size(most_tiles); }

  // Row `tile` of tiles, from column `left` on; it follows that of the last call, unless `fresh`.
  void fill(const T* x, int channels, int64_t tile, int64_t left, int64_t tiles, bool fresh) {
    top_ = tile * M;
    for (int64_t h = fresh ? top_ : top_ + Size - M; h < top_ + Size; ++h) {
      fill_row(row(h), x, channels, h - padding_.h, left * M - padding_.w, tiles * M + Size - M);
    }
  }
  // Row i under the row of tiles.
  const T* operator[](int64_t i) const { return row(top_ + i); }

 private:
  static constexpr int lanes = Vec<T>::lanes;

  static int64_t row_size(int64_t tiles) { return (tiles * M + Size - M + lanes) * lanes; }
  T* row(int64_t h) const { return ring_ + h % Size * row_; }

  void fill_row(T* to, const T* x, int channels, int64_t h, int64_t start, int64_t columns) const {
    const bool outside = h < 0 || h >= in_.h;
    const Inside inside(outside ? in_.w : start, 1, columns, in_.w);
    for (int64_t i = 0; i < inside.begin; ++i) store(to + i * lanes, zero<T>());
    if (inside.begin < inside.end) {
      gather_channels(to + inside.begin * lanes, x + h * in_.w + start + inside.begin, in_.area(),
                      channels, inside.end - inside.begin);
    }
    for (int64_t i = inside.end; i < columns; ++i) store(to + i * lanes, zero<T>());
  }

  HeightWidth in_, padding_;
  int64_t row_, top_ = 0;
  T* ring_;
};

// B^T d B of one tile of `lanes` channels or, of tiles of M x M elements, A d A^T.
template <typename T, int M, int Size>
FASTDL_INLINE void transform_tile(T* to, int64_t stride, const TileRows<T, M, Size>& rows,
                                  int64_t column) {
  using W = Winograd<T, M>;
  constexpr auto transform = [](Vec<T>(&of)[W::size], const Vec<T>(&d)[Size]) {
    if constexpr (Size == M) {
      W::output_gradient(of, d);
    } else {
      W::input(of, d);
    }
  };
  Vec<T> half[Size][W::size];
#pragma GCC unroll 1
  for (int i = 0; i < Size; ++i) {
    const T* from = rows[i] + column * Vec<T>::lanes;
    Vec<T> d[Size];
#pragma GCC unroll 8
    for (int j = 0; j < Size; ++j) d[j] = load(from + j * Vec<T>::lanes);
    transform(half[i], d);
  }
#pragma GCC unroll 1
  for (int j = 0; j < W::size; ++j) {
    Vec<T> d[Size], column_of[W::size];
#pragma GCC unroll 8
    for (int i = 0; i < Size; ++i) d[i] = half[i][j];
    transform(column_of, d);
#pragma GCC unroll 8
    for (int i = 0; i < W::size; ++i) store(to + (i * W::size + j) * stride, column_of[i]);
  }
}

// The panel of up to kPanel channels of x for one block of tiles; x: the first of the channels.
template <typename T, int M, int Size>
void transform_tiles(T* panel, const T* x, int64_t image_stride, int64_t channels, HeightWidth in,
                     HeightWidth padding, const TileBlocks& blocks, int64_t block, T* scratch) {
  const int64_t stride = point_stride<T>(blocks.most_tiles());
  TileRows<T, M, Size> rows(in, padding, scratch, blocks.bands.size.w);
  for_each_vec<T>(channels, [&](int64_t c, int valid) {
    blocks.for_each_image(block, [&](int64_t n, HeightWidth first, HeightWidth size, int64_t t) {
      const T* image = x + n * image_stride + c * in.area();
      for (int64_t i = 0; i < size.h; ++i) {
        rows.fill(image, valid, first.h + i, first.w, size.w, i == 0);
        for (int64_t j = 0; j < size.w; ++j) {
          transform_tile(panel + (t + i * size.w + j) * kPanel + c, stride, rows, j * M);
        }
      }
    });
  });
}

// Register tiles: 24 sums, 4 vectors of B and one of A fill 29 of 32 registers.
template <typename T>
struct PanelTile {
  static constexpr int rows = 6;
  static constexpr int vectors = kVecRegisters == 32 ? 4 : 2;
  static constexpr int cols = vectors * Vec<T>::lanes;
};
constexpr int64_t kMaxDepth = 32;  // of the sums kept in registers: half the error of 64

// C = A B or C += A B for one register tile; the rows of B, C and A, or A^T, are kPanel elements
// apart.
template <typename T, int Rows, bool Transposed>
void multiply_panel_tile(T* c, const T* a, const T* b, int64_t depth, bool add) {
  constexpr int vectors = PanelTile<T>::vectors, lanes = Vec<T>::lanes;
  constexpr int64_t row_stride = Transposed ? 1 : kPanel, col_stride = Transposed ? kPanel : 1;
  for (int64_t begin = 0; begin < depth; begin += kMaxDepth) {
    const int64_t end = smaller(begin + kMaxDepth, depth);
    Vec<T> sum[Rows][vectors];
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = zero<T>();
    }
#pragma GCC unroll 1
    for (int64_t p = begin; p < end; ++p) {
      Vec<T> row[vectors];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) row[j] = load(b + p * kPanel + j * lanes);
#pragma GCC unroll 6
      for (int i = 0; i < Rows; ++i) {
        const Vec<T> factor = broadcast(a[i * row_stride + p * col_stride]);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] = fma(factor, row[j], sum[i][j]);
      }
    }
    const bool more = add || begin > 0;
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) {
        T* to = c + i * kPanel + j * lanes;
        store(to, more ? load(to) + sum[i][j] : sum[i][j]);
      }
    }
  }
}

// C = A B or C += A B, (rows x cols) = (rows x depth) (depth x cols), at most kPanel each but the
// rows; A lies transposed if Transposed.
template <typename T, bool Transposed>
void multiply_panels(T* c, const T* a, const T* b, int64_t rows, int64_t cols, int64_t depth,
                     bool add) {
  constexpr void (*kernels[])(T*, const T*, const T*, int64_t, bool) = {
      multiply_panel_tile<T, 1, Transposed>, multiply_panel_tile<T, 2, Transposed>,
      multiply_panel_tile<T, 3, Transposed>, multiply_panel_tile<T, 4, Transposed>,
      multiply_panel_tile<T, 5, Transposed>, multiply_panel_tile<T, 6, Transposed>};
  const int64_t groups = ceil_div(rows, PanelTile<T>::rows);
  for (int64_t j = 0; j < cols; j += PanelTile<T>::cols) {
    for (int64_t group = 0; group < groups; ++group) {  // of 5 and 6 rows rather than of 6 and 1
      const int64_t begin = group * rows / groups, end = (group + 1) * rows / groups;
      kernels[end - begin - 1](c + begin * kPanel + j, a + (Transposed ? begin : begin * kPanel),
                               b + j, depth, add);
    }
  }
}

}  // namespace fastdl::FASTDL_ISA
