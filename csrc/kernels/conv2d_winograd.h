// What the Winograd convolutions share: the cut of the image into tiles, and products of panels.
//
// F(MxM, RxR) computes a tile of M x M outputs y of an R x R window g by the one-dimensional
// transforms of F(M, R) along both axes:  y = A^T [(G g G^T) * (B^T d B)] A, and the gradient of
// the window by as many products:  dg = G^T [(A dy A^T) * (B^T d B)] G. With a dilation d, d x d
// tiles lie in one another, each of every d-th element.
#pragma once

#include "kernels/conv2d_layout.h"
#include "kernels/conv2d_winograd_transforms.h"

namespace fastdl::FASTDL_ISA {

// A panel holds kPanel channels of each point of the transform, channels innermost:
// panel[point][row][channel], the rows being tiles or other channels. The vector between points
// keeps them from falling into the same sets of the cache.
constexpr int64_t kPanel = 64;
// Tiles of a block: V and M of a panel take 590 KB each.
template <typename W>
constexpr int64_t kMaxTiles = W::size <= 6 ? 64 : 28;

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

// Where tile t begins, of tiles of `step` elements: those of a dilation lie in one another, so that
// each `dilation` of them fill a line.
FASTDL_INLINE int64_t tile_begin(int64_t t, int64_t step, int64_t dilation) {
  return t / dilation * dilation * step + t % dilation;
}

// The outputs of all images in tiles of M x M, and the tiles in blocks: rows of tiles of an image,
// or parts of a row if those are too long, or several images if these are small.
struct TileBlocks {
  HeightWidth grid, dilation;
  Bands bands;
  int64_t batch, images, count;

  TileBlocks(const Conv2dSizes& s, HeightWidth out, int64_t m, int64_t most)
      : grid{winograd_tiles(out.h, m, s.dilation.h), winograd_tiles(out.w, m, s.dilation.w)},
        dilation(s.dilation),
        bands(grid, most, dilation.w),
        batch(s.batch),
        images(1) {
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

// What a tile holds along an axis: inputs of the convolution, or gradients of its outputs.
template <typename W>
struct Inputs {
  static constexpr int count = W::inputs, step = W::input_step;
  template <typename V>
  FASTDL_INLINE static void transform(V (&to)[W::size], const V (&d)[count]) {
    W::input(to, d);
  }
};
template <typename W>
struct OutputGradients {
  static constexpr int count = W::outputs, step = W::outputs;
  template <typename V>
  FASTDL_INLINE static void transform(V (&to)[W::size], const V (&dy)[count]) {
    W::output_gradient(to, dy);
  }
};

// The rows under a row of tiles: channels innermost and zero-padded. The rows that later rows of
// tiles read too are kept.
template <typename T, typename Tile>
class TileRows {
 public:
  TileRows(HeightWidth in, HeightWidth padding, HeightWidth dilation, T* scratch,
           int64_t most_tiles)
      : in_(in),
        padding_(padding),
        dilation_(dilation),
        row_(row_size(most_tiles, dilation.w)),
        ring_(scratch) {}
  static int64_t scratch(const TileBlocks& blocks) {
    return Tile::count * blocks.dilation.h * row_size(blocks.bands.size.w, blocks.dilation.w);
  }

  // Row `tile` of tiles, of which `left` is the first; `fresh` unless the row of tiles above of the
  // same elements modulo the dilation was there.
  void fill(const T* x, int channels, int64_t tile, int64_t left, int64_t tiles, bool fresh) {
    top_ = tile_begin(tile, Tile::step, dilation_.h);
    for (int64_t i = fresh ? 0 : Tile::count - Tile::step; i < Tile::count; ++i) {
      fill_row(row(i), x, channels, top_ + i * dilation_.h - padding_.h,
               left * Tile::step - padding_.w, columns(tiles, dilation_.w));
    }
  }
  // Row i under the row of tiles, from the first element of a tile on.
  const T* at(int64_t i, int64_t tile) const {
    return row(i) + tile_begin(tile, Tile::step, dilation_.w) * lanes;
  }
  // From one element of a tile to the next.
  int64_t step() const { return dilation_.w * lanes; }

 private:
  static constexpr int lanes = Vec<T>::lanes;

  static int64_t columns(int64_t tiles, int64_t dilation) {
    return round_up(tiles, dilation) * Tile::step + dilation * (Tile::count - Tile::step);
  }
  static int64_t row_size(int64_t tiles, int64_t dilation) {
    return (columns(tiles, dilation) + lanes) * lanes;
  }
  T* row(int64_t i) const {
    return ring_ + (top_ + i * dilation_.h) % (Tile::count * dilation_.h) * row_;
  }

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

  HeightWidth in_, padding_, dilation_;
  int64_t row_, top_ = 0;
  T* ring_;
};

// B^T d B of one tile of `lanes` channels or, of gradients of outputs, A d A^T.
template <typename T, typename W, typename Tile>
FASTDL_INLINE void transform_tile(T* to, int64_t stride, const TileRows<T, Tile>& rows,
                                  int64_t tile) {
  Vec<T> half[Tile::count][W::size];
#pragma GCC unroll 1
  for (int i = 0; i < Tile::count; ++i) {
    const T* from = rows.at(i, tile);
    Vec<T> d[Tile::count];
#pragma GCC unroll 16
    for (int j = 0; j < Tile::count; ++j) d[j] = load(from + j * rows.step());
    Tile::transform(half[i], d);
  }
#pragma GCC unroll 1
  for (int j = 0; j < W::size; ++j) {
    Vec<T> d[Tile::count], column_of[W::size];
#pragma GCC unroll 16
    for (int i = 0; i < Tile::count; ++i) d[i] = half[i][j];
    Tile::transform(column_of, d);
#pragma GCC unroll 16
    for (int i = 0; i < W::size; ++i) store(to + (i * W::size + j) * stride, column_of[i]);
  }
}

// The panel of up to kPanel channels of x for one block of tiles; x: the first of the channels.
template <typename T, typename W, typename Tile>
void transform_tiles(T* panel, const T* x, int64_t image_stride, int64_t channels, HeightWidth in,
                     HeightWidth padding, const TileBlocks& blocks, int64_t block, T* scratch) {
  const int64_t stride = point_stride<T>(blocks.most_tiles());
  TileRows<T, Tile> rows(in, padding, blocks.dilation, scratch, blocks.bands.size.w);
  for_each_vec<T>(channels, [&](int64_t c, int valid) {
    blocks.for_each_image(block, [&](int64_t n, HeightWidth first, HeightWidth size, int64_t t) {
      const T* image = x + n * image_stride + c * in.area();
      for (int64_t i = 0; i < size.h; ++i) {
        rows.fill(image, valid, first.h + i, first.w, size.w, i < blocks.dilation.h);
        for (int64_t j = 0; j < size.w; ++j) {
          transform_tile<T, W>(panel + (t + i * size.w + j) * kPanel + c, stride, rows, j);
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

// What comes to L2 while a tile is computed, a little each step.
template <typename T>
struct Ahead {
  const T* data;
  int64_t step;

  FASTDL_INLINE void next() {
    __builtin_prefetch(data, 0, 2);
    data += step;
  }
};

// C = A B or C += A B for one register tile; the rows of B, C and A, or A^T, are kPanel elements
// apart. Meanwhile some of what is multiplied next comes to L2.
template <typename T, int Rows, bool Transposed>
void multiply_panel_tile(T* c, const T* a, const T* b, int64_t depth, bool add, Ahead<T> next_c,
                         Ahead<T> next_a, Ahead<T> next_b) {
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
      next_c.next();
      next_a.next();
      next_b.next();
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
// rows; A lies transposed if Transposed. The points that are multiplied next lie c_stride, a_stride
// and b_stride elements on.
template <typename T, bool Transposed>
void multiply_panels(T* c, const T* a, const T* b, int64_t rows, int64_t cols, int64_t depth,
                     bool add, int64_t c_stride, int64_t a_stride, int64_t b_stride) {
  constexpr void (*kernels[])(T*, const T*, const T*, int64_t, bool, Ahead<T>, Ahead<T>,
                              Ahead<T>) = {
      multiply_panel_tile<T, 1, Transposed>, multiply_panel_tile<T, 2, Transposed>,
      multiply_panel_tile<T, 3, Transposed>, multiply_panel_tile<T, 4, Transposed>,
      multiply_panel_tile<T, 5, Transposed>, multiply_panel_tile<T, 6, Transposed>};
  const int64_t groups = ceil_div(rows, PanelTile<T>::rows);
  const int64_t tiles = groups * ceil_div(cols, PanelTile<T>::cols);
  const auto step = [=](int64_t n) { return ceil_div(n * kPanel, tiles * depth); };
  const int64_t c_step = step(rows), b_step = step(depth), a_step = Transposed ? b_step : c_step;
  int64_t steps = 0;
  for (int64_t j = 0; j < cols; j += PanelTile<T>::cols) {
    for (int64_t group = 0; group < groups; ++group, steps += depth) {  // 5 and 6 rows, not 6 and 1
      const int64_t begin = group * rows / groups, end = (group + 1) * rows / groups;
      kernels[end - begin - 1](c + begin * kPanel + j, a + (Transposed ? begin : begin * kPanel),
                               b + j, depth, add, {c + c_stride + steps * c_step, c_step},
                               {a + a_stride + steps * a_step, a_step},
                               {b + b_stride + steps * b_step, b_step});
    }
  }
}

}  // namespace fastdl::FASTDL_ISA
