// What the Winograd convolutions share: the one-dimensional transforms, the cut of the image into
// tiles, and products of panels.
//
// F(MxM, 3x3) computes M x M outputs of a 3x3 window from (M + 2) x (M + 2) inputs by (M + 2)^2
// products:  y = A^T [(G g G^T) * (B^T d B)] A  (Lavin, Gray 2016). The polynomials behind it are
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
  FASTDL_INLINE static void input(V (&d)[size]) {
    const V d1 = d[1], d2 = d[2];
    d[0] = d[0] - d2;
    d[1] = d1 + d2;
    d[2] = d2 - d1;
    d[3] = d1 - d[3];
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
};

template <typename T>
struct Winograd<T, 4> {
  using V = Vec<T>;
  static constexpr int size = 6, points = 36;
  static constexpr T kA = T(0.70710678118654752440), kB = T(1.41421356237309504880);

  FASTDL_INLINE static void input(V (&d)[size]) {
    const V half = broadcast(T(0.5)), two = broadcast(T(2)), sum = broadcast(T(2.5));
    const V even_a = fnma(two, d[2], d[4]), odd_a = broadcast(kA) * fnma(two, d[1], d[3]);
    const V even_b = fnma(half, d[2], d[4]), odd_b = broadcast(kB) * fnma(half, d[1], d[3]);
    d[0] = fnma(sum, d[2], d[0] + d[4]);
    d[5] = fnma(sum, d[3], d[1] + d[5]);
    d[1] = even_a + odd_a;
    d[2] = even_a - odd_a;
    d[3] = even_b + odd_b;
    d[4] = even_b - odd_b;
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
};

// A panel holds kPanel channels of each point of the transform, channels innermost:
// panel[point][row][channel], the rows being tiles or other channels. The vector between points
// keeps them from falling into the same sets of the cache.
constexpr int64_t kPanel = 64;

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

// The rows of x under a row of tiles, channels innermost and zero-padded; the rows that the next
// row of tiles reads too are kept.
template <typename T, int M>
class TileRows {
 public:
  TileRows(HeightWidth in, HeightWidth padding, T* scratch, int64_t most_tiles)
      : in_(in), padding_(padding), row_((most_tiles * M + 2 + lanes) * lanes), ring_(scratch) {}
  static int64_t scratch(int64_t most_tiles) { return size * (most_tiles * M + 2 + lanes) * lanes; }

  // Row `tile` of tiles, whose first column of tiles is `left`; tiles below the last call's must
  // follow it directly, unless `fresh`.
  void fill(const T* x, int channels, int64_t tile, int64_t left, int64_t tiles, bool fresh) {
    top_ = tile * M;
    for (int64_t h = fresh ? top_ : top_ + size - M; h < top_ + size; ++h) {
      fill_row(row(h), x, channels, h - padding_.h, left * M - padding_.w, tiles * M + 2);
    }
  }
  // Row i under the row of tiles.
  const T* operator[](int64_t i) const { return row(top_ + i); }

 private:
  static constexpr int size = Winograd<T, M>::size, lanes = Vec<T>::lanes;

  T* row(int64_t h) const { return ring_ + h % size * row_; }

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

// to[i][j] = B^T d B of one tile of `lanes` channels, d's rows at rows[i] + column.
template <typename T, int M>
FASTDL_INLINE void transform_tile(T* to, int64_t stride, const TileRows<T, M>& rows,
                                  int64_t column) {
  constexpr int size = Winograd<T, M>::size;
  Vec<T> half[size][size];
#pragma GCC unroll 1
  for (int i = 0; i < size; ++i) {
    const T* from = rows[i] + column * Vec<T>::lanes;
    Vec<T> d[size];
#pragma GCC unroll 8
    for (int j = 0; j < size; ++j) d[j] = load(from + j * Vec<T>::lanes);
    Winograd<T, M>::input(d);
#pragma GCC unroll 8
    for (int j = 0; j < size; ++j) half[i][j] = d[j];
  }
#pragma GCC unroll 1
  for (int j = 0; j < size; ++j) {
    Vec<T> d[size];
#pragma GCC unroll 8
    for (int i = 0; i < size; ++i) d[i] = half[i][j];
    Winograd<T, M>::input(d);
#pragma GCC unroll 8
    for (int i = 0; i < size; ++i) store(to + (i * size + j) * stride, d[i]);
  }
}

// The panel of up to kPanel channels of x for one block of tiles; x: the first of the channels.
template <typename T, int M>
void transform_input(T* panel, const T* x, int64_t image_stride, int64_t channels, HeightWidth in,
                     HeightWidth padding, const TileBlocks& blocks, int64_t block, T* scratch) {
  constexpr int lanes = Vec<T>::lanes;
  const int64_t stride = point_stride<T>(blocks.most_tiles());
  TileRows<T, M> rows(in, padding, scratch, blocks.bands.size.w);
  for_each_vec<T>(channels, [&](int64_t c, int valid) {
    blocks.for_each_image(block, [&](int64_t n, HeightWidth first, HeightWidth size, int64_t t) {
      const T* image = x + n * image_stride + c * in.area();
      for (int64_t i = 0; i < size.h; ++i) {
        rows.fill(image, valid, first.h + i, first.w, size.w, i == 0);
        for (int64_t j = 0; j < size.w; ++j) {
          transform_tile<T, M>(panel + (t + i * size.w + j) * kPanel + c, stride, rows, j * M);
        }
      }
    });
    static_assert(kPanel % lanes == 0);
  });
}

}  // namespace fastdl::FASTDL_ISA
