// y[n, k, p] = bias[k] + sum_c weight[k, c] x[n, c, p * stride]
//
// A matrix product (K x C) (C x pixels) over the pixels of all images in one line, so that planes
// of 7x7 fill its tiles as well as any. The weight is read as it lies. A block takes some columns,
// and packs what it reads of them for all its rows. Channels lie planes apart, which no prefetcher
// follows: while a block is multiplied, what is packed next comes to L2, a line at each step of k.
// A tile of C whose pixels lie in a line is written straight into y, others by way of L1.
//
// The gradient of x is the same product with the weight transposed; a stride is one in what is
// written, among zeros.
#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/gemm.h"
#include "kernels/conv2d.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr double kBlockFlops = 1e6;  // some 5 us
constexpr int64_t kMinBlocks = 8;
constexpr int64_t kFewRows = 64;   // are no use of a packed strip
constexpr int64_t kGrain = 65536;  // elements to read, some 10 us

// The pixels that take part in an image: every step.h-th of every step.w-th row.
struct Pixels {
  HeightWidth plane, step;
  int64_t channels;

  int64_t at(int64_t image, HeightWidth i) const {
    return image * channels * plane.area() + i.h * step.h * plane.w + i.w * step.w;
  }
};

// to (rows x pixels) = weight (rows x depth) from (depth x pixels), for each group.
struct PixelProduct {
  int64_t batch, groups, rows, depth;
  HeightWidth grid;  // pixels of an image
  Pixels from, to;

  // x to y, or dy to dx.
  PixelProduct(const Conv2dSizes& s, bool backward)
      : batch(s.batch),
        groups(s.groups),
        rows(s.group_out_channels()),
        depth(s.group_channels()),
        grid(s.out),
        from{s.in, s.stride, s.channels},
        to{s.out, {1, 1}, s.out_channels} {
    if (s.in == s.out) {  // all pixels of an image lie in a line
      grid = from.plane = to.plane = {1, s.out.area()};
      from.step = {1, 1};
    }
    if (backward) {
      swap(rows, depth);
      swap(from, to);
    }
  }
  int64_t columns() const { return batch * grid.area(); }
  // What `length` pixels from one on write.
  HeightWidth written(HeightWidth pixel, int64_t length) const {
    return {smaller(to.step.h, to.plane.h - pixel.h * to.step.h),
            smaller(to.step.w * length, to.plane.w - pixel.w * to.step.w)};
  }

 private:
  template <typename U>
  static void swap(U& a, U& b) {
    const U c = a;
    a = b;
    b = c;
  }
};

// Pixels in a line, of one strip.
struct Piece {
  int64_t from, to;
  int strip, column, length;
  HeightWidth written;  // with the zeros to the right of and below each
};

// Its rows i..i+7, i a multiple of 8, lie at data + i / 8 * strip, as a Strip.
template <typename T>
struct Weight {
  const T* data;
  int64_t strip, across, along;

  Strip<T> at(int64_t i, int64_t k) const {
    return {data + i / GemmTile<T>::rows * strip + k * along, across, along};
  }
};

// What is packed next begins to come to L2 while this is computed: a line at each step of k.
template <typename T>
struct ProductAhead : Product {
  const T* next;
  int64_t stride;

  FASTDL_INLINE void step() {
    __builtin_prefetch(next, 0, 2);
    next += stride;
  }
};

// The columns of a block, cut where strips or lines of pixels end.
template <typename T>
struct Columns {
  static constexpr int kCols = GemmTile<T>::cols;
  static constexpr int kMost = GemmTile<T>::max_cols;

  void set(const PixelProduct& p, int64_t begin, int64_t end) {
    count = lines = 0;
    strips = static_cast<int>(ceil_div(end - begin, kCols));
    int64_t image = begin / p.grid.area(), at = begin % p.grid.area();
    HeightWidth pixel{at / p.grid.w, at % p.grid.w};
    for (int strip = 0; strip < strips; ++strip) {
      first[strip] = count;
      const int cols = static_cast<int>(smaller(kCols, end - begin - strip * kCols));
      for (int column = 0; column < cols; column += pieces[count++].length) {
        const auto length = static_cast<int>(smaller(cols - column, p.grid.w - pixel.w));
        pieces[count] = {p.from.at(image, pixel), p.to.at(image, pixel), strip, column, length,
                         p.written(pixel, length)};
        for (int64_t i = 0; i < length * p.from.step.w && lines < kMost; i += kLine) {
          line[lines++] = pieces[count].from + i;
        }
        pixel.w += length;
        if (pixel.w < p.grid.w) continue;
        pixel.w = 0;
        if (++pixel.h < p.grid.h) continue;
        pixel.h = 0;
        ++image;
      }
    }
    first[strips] = count;
  }

  static constexpr int kLine = 64 / sizeof(T);
  int strips, count, lines;
  int first[kMost / kCols + 1];  // piece of a strip
  Piece pieces[kMost];
  int64_t line[kMost];  // what they read
};

template <typename T>
FASTDL_INLINE void read_pixels(T* to, const T* from, int64_t n, int64_t step) {
  constexpr int kLanes = Vec<T>::lanes;
  if (step == 1) {
    for_each_vec<T>(n, [=](int64_t i, int lanes) { store(to + i, load(from + i, lanes), lanes); });
  } else if (step == 2) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const auto elements = static_cast<int>(smaller(2 * (n - i) - 1, 2 * kLanes));
      const int low = elements < kLanes ? elements : kLanes;
      const T* p = from + 2 * i;
      store(to + i, even_lanes(load(p, low), load(p + kLanes, elements - low)),
            static_cast<int>(smaller(n - i, kLanes)));
    }
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = from[i * step];
  }
}

template <typename T>
void write_pixels(T* to, const T* from, const Piece& piece, const Pixels& pixels) {
  constexpr int kLanes = Vec<T>::lanes;
  const Vec<T> zeros = zero<T>();
  const int64_t width = piece.written.w, step = pixels.step.w;
  if (step == 1) {
    for_each_vec<T>(width,
                    [=](int64_t i, int lanes) { store(to + i, load(from + i, lanes), lanes); });
  } else if (step == 2) {
    for (int64_t i = 0; i < piece.length; i += kLanes) {
      const auto elements = static_cast<int>(smaller(width - 2 * i, 2 * kLanes));
      const int low = elements < kLanes ? elements : kLanes;
      const Vec<T> v = load(from + i, static_cast<int>(smaller(piece.length - i, kLanes)));
      store(to + 2 * i, interleave_low(v, zeros), low);
      store(to + 2 * i + kLanes, interleave_high(v, zeros), elements - low);
    }
  } else {
    for (int64_t i = 0; i < width; ++i) to[i] = i % step ? T(0) : from[i / step];
  }
  for (int64_t h = 1; h < piece.written.h; ++h) {
    for_each_vec<T>(width, [=, row = to + h * pixels.plane.w](int64_t i, int lanes) {
      store(row + i, zeros, lanes);
    });
  }
}

template <typename T>
class PointwiseBlock {
 public:
  using Tile = GemmTile<T>;
  static constexpr int kRows = Tile::rows, kCols = Tile::cols;

  // Then `next` will be computed.
  PointwiseBlock(const PixelProduct& p, const Columns<T>& columns, const Columns<T>& next, T* panel)
      : p_(p),
        columns_(columns),
        next_(next),
        panel_(panel),
        depth_(gemm_depth<T>(p.depth)),
        in_place_(p.from.step == HeightWidth{1, 1} && p.rows <= kFewRows &&
                  fits_in_place<T>(p.from.plane.area(), depth_)) {}

  static int64_t scratch(const PixelProduct& p, int64_t strips) {
    return gemm_depth<T>(p.depth) * kCols * strips;
  }

  // The rows i0..i1-1 of a group: from is its first channel, to its first row.
  void run(T* to, const T* from, const Weight<T>& weight, const T* bias, int64_t i0, int64_t i1) {
    const int64_t plane = p_.from.plane.area();
    for (int64_t k = 0; k == 0 || k < p_.depth; k += depth_) {
      const int64_t depth = smaller(depth_, p_.depth - k);
      pack(from + k * plane, depth);
      const bool last = k + depth >= p_.depth;
      const Columns<T>& next = last ? next_ : columns_;
      const T* ahead = last ? from : from + (k + depth) * plane;
      const int64_t tiles = ceil_div(i1 - i0, kRows) * columns_.strips;
      int64_t tile = 0;
      int line = 0;
      for (int64_t i = i0; i < i1; i += kRows) {
        const auto rows = static_cast<int>(smaller(kRows, i1 - i));
        for (int s = 0; s < columns_.strips; ++s, ++tile) {
          ProductAhead<T> term{{}, panel_, 0};
          if (line < next.lines && line * tiles <= tile * next.lines) {  // evenly spread
            term = {{}, ahead + next.line[line++], plane};
          }
          multiply(to + i * p_.to.plane.area(), from + k * plane, rows, s, weight.at(i, k), depth,
                   k > 0, bias ? bias + i : nullptr, term);
        }
      }
    }
  }

 private:
  // Whether a strip of B lies in x already, and few rows would make up for packing it.
  bool lies_in_line(int strip) const {
    return in_place_ && columns_.first[strip + 1] - columns_.first[strip] == 1 &&
           columns_.pieces[columns_.first[strip]].length % Tile::lanes == 0;
  }

  void pack(const T* from, int64_t depth) {
    constexpr int64_t kAhead = 2;  // rows that come from L2 to L1 meanwhile
    const int64_t plane = p_.from.plane.area(), step = p_.from.step.w;
    for (int64_t q = 0; q < depth; ++q) {
      for (int i = 0; i < columns_.count; ++i) {
        const Piece& piece = columns_.pieces[i];
        if (lies_in_line(piece.strip)) continue;
        const T* row = from + q * plane + piece.from;
        for (int64_t j = 0; j < piece.length * step; j += Columns<T>::kLine) {
          __builtin_prefetch(row + kAhead * plane + j);
        }
        read_pixels(panel_ + (piece.strip * depth_ + q) * kCols + piece.column, row, piece.length,
                    step);
      }
    }
  }

  void multiply(T* to, const T* from, int rows, int strip, const Strip<T>& a, int64_t depth,
                bool add, const T* bias, ProductAhead<T> term) {
    const int64_t ld = p_.to.plane.area();
    const Piece* const begin = columns_.pieces + columns_.first[strip];
    Strip<T> b{panel_ + strip * depth_ * kCols, 1, kCols};
    if (lies_in_line(strip)) b = {from + begin->from, 1, p_.from.plane.area()};
    const Piece* const end = columns_.pieces + columns_.first[strip + 1];
    const int cols = end[-1].column + end[-1].length, last = (cols - 1) / Tile::lanes;
    const auto kernel = gemm_kernels<T, ProductAhead<T>>.kernels[rows - 1][last];
    const auto multiply_to = [&](T* c, int64_t ldc) {
      // Made of scalars: a copy of it waited until all results before it had left for memory.
      kernel(c, ldc, a, b, depth, cols - last * Tile::lanes,
             {add ? c : bias, add ? ldc : 1, add ? 1 : 0}, term);
    };
    if (p_.to.step == HeightWidth{1, 1} && end[-1].to - begin->to == end[-1].column) {
      return multiply_to(to + begin->to, ld);
    }
    const auto for_each_line = [&](auto&& visit) {
      for (const Piece* piece = begin; piece < end; ++piece) {
        for (int r = 0; r < rows; ++r) {
          visit(to + r * ld + piece->to, tile_ + r * kCols + piece->column, *piece);
        }
      }
    };
    if (add) {
      for_each_line([&](const T* y, T* line, const Piece& piece) {
        read_pixels(line, y, piece.length, p_.to.step.w);
      });
    }
    multiply_to(tile_, kCols);
    for_each_line(
        [&](T* y, const T* line, const Piece& piece) { write_pixels(y, line, piece, p_.to); });
  }

  const PixelProduct& p_;
  const Columns<T>&columns_, &next_;
  T* panel_;
  int64_t depth_;
  bool in_place_;
  alignas(64) T tile_[kRows * kCols];
};

// How the columns and the rows are shared out to blocks, by whole strips.
template <typename T>
struct Blocks {
  int64_t strips, row_strips, areas, parts, grain;

  explicit Blocks(const PixelProduct& p)
      : strips(ceil_div(p.columns(), GemmTile<T>::cols)),
        row_strips(ceil_div(p.rows, GemmTile<T>::rows)) {
    const double flops = 2.0 * static_cast<double>(p.groups * p.rows) *
                         static_cast<double>(p.depth + 1) * static_cast<double>(p.columns());
    const int64_t wanted = smaller(kMinBlocks, static_cast<int64_t>(flops / kBlockFlops) + 1);
    areas = larger(ceil_div(strips, GemmTile<T>::max_cols / GemmTile<T>::cols),
                   smaller(strips, ceil_div(wanted, p.groups)));
    parts = smaller(row_strips, ceil_div(wanted, areas * p.groups));
    const auto blocks = static_cast<double>(p.groups * areas * parts);
    grain = static_cast<int64_t>(kBlockFlops * blocks / flops) + 1;
  }
  void set(Columns<T>& columns, const PixelProduct& p, int64_t area) const {
    columns.set(p, strips * area / areas * GemmTile<T>::cols,
                smaller(strips * (area + 1) / areas * GemmTile<T>::cols, p.columns()));
  }
  int64_t first_row(int64_t part) const { return row_strips * part / parts * GemmTile<T>::rows; }
};

template <typename T>
void multiply(T* to, const T* from, const Weight<T>& weight, int64_t group_weight, const T* bias,
              const PixelProduct& p, const Epilogue<T>& epilogue) {
  const Blocks<T> blocks(p);
  const int64_t plane = p.to.plane.area();
  parallel_ranges(
      p.groups * blocks.areas * blocks.parts, blocks.grain, [&](int64_t begin, int64_t end) {
        const Workspace<T> panel(
            PointwiseBlock<T>::scratch(p, ceil_div(blocks.strips, blocks.areas)));
        Columns<T> columns[2];
        int current = 0;
        const auto area_of = [&](int64_t block) { return block / blocks.parts % blocks.areas; };
        blocks.set(columns[current], p, area_of(begin));
        for (int64_t block = begin; block < end; ++block) {
          const int64_t g = block / blocks.parts / blocks.areas, part = block % blocks.parts;
          const int64_t i0 = blocks.first_row(part),
                        i1 = smaller(blocks.first_row(part + 1), p.rows);
          const int next = area_of(block + 1) == area_of(block) ? current : 1 - current;
          if (next != current) blocks.set(columns[next], p, area_of(block + 1));
          Weight<T> of_group = weight;
          of_group.data += g * group_weight;
          T* const y = to + g * p.rows * plane;
          PointwiseBlock<T>(p, columns[current], columns[next], panel.data())
              .run(y, from + g * p.depth * p.from.plane.area(), of_group,
                   bias ? bias + g * p.rows : nullptr, i0, i1);
          for (int i = 0; i < columns[current].count; ++i) {
            const Piece& piece = columns[current].pieces[i];
            T* const block_y = y + i0 * plane + piece.to;
            apply_epilogue(block_y, plane, i1 - i0, piece.length, epilogue.at(block_y - to));
          }
          current = next;
        }
      });
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  const PixelProduct p(s, false);
  multiply<T>(y, x, {weight, GemmTile<T>::rows * p.depth, p.depth, 1}, p.rows * p.depth, bias, p,
              epilogue);
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  constexpr int64_t kRows = GemmTile<T>::rows;
  const PixelProduct p(s, true);
  const int64_t size = p.depth * p.rows;  // of a group
  if (fits_in_place<T>(p.rows, gemm_depth<T>(p.depth))) {
    return multiply<T>(dx, dy, {weight, kRows, 1, p.rows}, size, nullptr, p, {});
  }
  const int64_t strips = ceil_div(p.rows, kRows), strip = p.depth * kRows;
  const Workspace<T> packed(p.groups * strips * strip);
  parallel_ranges(p.groups * strips, kGrain / strip + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % strips * kRows;
      pack_strip<kRows>(packed.data() + i * strip,
                        Matrix<T>{weight + i / strips * size + row, 1, p.rows},
                        static_cast<int>(smaller(kRows, p.rows - row)), p.depth);
    }
  });
  multiply<T>(dx, dy, {packed.data(), strip, 1, kRows}, strips * strip, nullptr, p, {});
}

template <typename T>
void gather(T* pixels, const T* x, const Conv2dSizes& s) {
  const int64_t row = s.stride.h * s.in.w;
  parallel_ranges(s.batch * s.channels, kGrain / s.in.area() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      T* const to = pixels + plane * s.out.area();
      const T* const from = x + plane * s.in.area();
      for (int64_t h = 0; h < s.out.h; ++h) {
        for (int64_t w = 0; w < s.in.w; w += Columns<T>::kLine) {
          __builtin_prefetch(from + s.in.area() + h * row + w, 0, 2);
        }
        read_pixels(to + h * s.out.w, from + h * row, s.out.w, s.stride.w);
      }
    }
  });
}

template <typename T>
void spread(T* dx, const T* pixels, const Conv2dSizes& s) {
  const Pixels apart{s.in, s.stride, s.channels};
  parallel_ranges(s.batch * s.channels, kGrain / s.in.area() + 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      for (int64_t h = 0; h < s.out.h; ++h) {
        const int64_t row = h * s.stride.h;
        const Piece piece{
            0, 0, 0, 0, static_cast<int>(s.out.w), {smaller(s.stride.h, s.in.h - row), s.in.w}};
        write_pixels(dx + plane * s.in.area() + row * s.in.w,
                     pixels + (plane * s.out.h + h) * s.out.w, piece, apart);
      }
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dPointwiseKernels, conv2d_pointwise_kernels, forward<T>,
                      input_gradient<T>, gather<T>, spread<T>)

}  // namespace fastdl::FASTDL_ISA
