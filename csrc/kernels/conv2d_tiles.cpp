// y[n, k, p] = bias[k] + sum over c, t of weight[k, c, t] x[n, c, p stride + t dilation]
//
// A matrix product on AMX's tiles: the weight times the patches of x under the windows of all
// images, in one line (conv2d_patches.h). The weight is laid out for the tiles once a call. A task
// walks along its columns, a group of some at a time, whose sums stay in L2. While the tiles
// multiply, the vector units lay out what is multiplied next, and finish the group before.
//
// The gradient of x for 1x1 windows is the same product of dy with the weight transposed.
#include "kernels/conv2d_tiles.h"

#include "core/apply_epilogue.h"
#include "core/buffer_pool.h"
#include "core/parallel.h"
#include "core/tile_gemm.h"
#include "kernels/conv2d_patches.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGroupStrips = 8, kGroup = kGroupStrips * kStripLines;  // columns
constexpr int64_t kMaxRows = 512, kMinRows = 64;
constexpr int64_t kMinTasks = 8, kMaxTasks = 16;  // keep some threads busy
constexpr int64_t kGrain = 8'000'000;             // multiplications
constexpr int64_t kSplitGrain = 32768;            // elements of the weight, some 10 us

template <typename E>
struct Problem {
  E* y;
  const E* x;
  const E* bias;
  const Conv2dSizes& sizes;
  const Epilogue<E>& epilogue;
  const SplitRows<E>& weight;

  int64_t columns() const { return sizes.batch * sizes.out.area(); }
};

// Rows first..end-1 of y.
template <typename E>
class RowBlock {
 public:
  RowBlock(const Problem<E>& problem, int64_t first, int64_t end, char* memory)
      : problem_(problem),
        first_(first),
        end_(end),
        terms_(problem.sizes.taps()),
        strip_(strip_bytes<E>(tile_depth<E>(terms_))),
        strips_(memory),
        sums_(reinterpret_cast<float*>(memory + 2 * kGroupStrips * strip_)),
        unsplit_(sums_ + 2 * sums_size(end - first)) {}

  static int64_t memory(int64_t rows, int64_t terms) {
    const int64_t depth = tile_depth<E>(terms);
    return 2 * kGroupStrips * strip_bytes<E>(depth) +
           int64_t{sizeof(float)} *
               (2 * sums_size(rows) + 2 * kStripLines * depth + kStripLines * (depth + 1));
  }

  void run(int64_t begin, int64_t end) {
    stop_ = end;
    begin_ahead(begin, 0);
    finish_ahead();
    for (int64_t j = begin; j < end; j += kGroup) {
      for (int64_t p = 0; p < terms_; p += kDepth) {
        const bool last = p + kDepth >= terms_;
        begin_ahead(last ? j + kGroup : j, last ? 0 : p + kDepth);
        multiply(j, p);
        finish_ahead();
      }
      finished_ = 0;
      to_finish_ = j;
    }
    for (; finished_ < end_ - first_; ++finished_) finish_row();
  }

 private:
  static constexpr int64_t kDepth = kTileDepth<E>;

  static int64_t sums_size(int64_t rows) { return round_up(rows, kStripLines) * kGroup; }
  int64_t columns(int64_t j) const { return smaller(kGroup, stop_ - j); }
  int64_t depth(int64_t p) const { return smaller(kDepth, terms_ - p); }
  static int width(int64_t s, int64_t columns) {
    return static_cast<int>(smaller(kStripLines, columns - s * kStripLines));
  }
  float* sums(int64_t j) const { return sums_ + j / kGroup % 2 * sums_size(end_ - first_); }
  // The strips of two parts take turns.
  char* strip(int turn, int64_t s) const { return strips_ + (turn * kGroupStrips + s) * strip_; }

  void multiply(int64_t j, int64_t p) {
    const int64_t strips = ceil_div(columns(j), kStripLines), terms = depth(p);
    const int64_t slots =
        ceil_div(end_ - first_, kStripLines) * strips * ceil_div(terms, kStepTerms);
    int64_t slot = 0, done = 0;
    const auto meanwhile = [&]() FASTDL_INLINE_LAMBDA {
      unscaling_.step();
      ++slot;
      for (; done * slots < steps_ * slot; ++done) step_ahead();
    };
    for (int64_t i = first_; i < end_; i += kStripLines) {
      const char* const a = problem_.weight.strip(i, p);
      const auto rows = static_cast<int>(smaller(kStripLines, end_ - i));
      for (int64_t s = 0; s < strips; ++s) {
        const int cols = width(s, columns(j));
        float* const to = sums(j) + (i - first_) * kGroup + s * kStripLines;
        multiply_strips<kParts<E>>(to, kGroup, a, strip(!turn_, s), rows, cols, terms, p > 0,
                                   meanwhile);
        if (kParts<E> > 1 && p + kDepth >= terms_) {
          unscale();
          unscaling_ = {to, kGroup, rows, cols, kUnscale<E>};
          whole_ = {to, i, j + s * kStripLines, rows, cols};
        }
      }
    }
    unscale();
  }
  void unscale() {
    const bool finite = unscaling_.finish();
    unscaling_ = {};
    if (finite) return;
    const auto [to, i, j, rows, cols] = whole_;
    Patches<E> patches;
    patches.set(problem_.x, problem_.sizes, j, cols);
    for (int64_t p = 0; p < terms_; p += kDepth) {
      const int64_t terms = depth(p);
      auto* const copy = reinterpret_cast<E*>(unsplit_ + 2 * kStripLines * terms);
      patches.copy(copy, p, terms);
      multiply_unsplit(to, kGroup, problem_.weight(i, rows, p, terms),
                       Strided<E>{copy, 1, kStripLines}, rows, cols, terms, p > 0, unsplit_);
    }
  }

  // What is done while tiles are multiplied: the rows of the group before, then the strips of the
  // terms from p on of the group at j.
  void begin_ahead(int64_t j, int64_t p) {
    turn_ = !turn_;
    ahead_ = 0;
    ahead_strips_ = j < stop_ ? ceil_div(columns(j), kStripLines) : 0;
    ahead_j_ = j;
    ahead_p_ = p;
    steps_ = end_ - first_ - finished_;
    if (ahead_strips_ == 0) return;
    steps_ += ahead_strips_ * PatchSplitter<E>::steps(depth(p));
    start_strip();
    next_p_ = p + kDepth < terms_ ? p + kDepth : 0;
    next_j_ = next_p_ > 0 ? j : j + kGroup;
    next_ = 0;
    next_terms_ = in_line_ && next_j_ < stop_ ? depth(next_p_) : 0;
    steps_ += next_terms_;
  }
  // What one term reads for the group after the next begins to come to L2: a line of memory,
  // which prefetchers follow.
  void prefetch_term() const {
    const Conv2dSizes& s = problem_.sizes;
    const int64_t plane = s.in.area(), end = next_j_ + columns(next_j_);
    int64_t image = next_j_ / plane, pixel = next_j_ % plane;
    for (int64_t j = next_j_; j < end; ++image, pixel = 0) {
      const E* const from = problem_.x + (image * s.channels + next_p_ + next_) * plane + pixel;
      const int64_t n = smaller(end - j, plane - pixel);
      for (int64_t i = 0; i < n; i += 64 / int64_t{sizeof(E)}) __builtin_prefetch(from + i, 0, 2);
      j += n;
    }
  }
  void start_strip() {
    splitter_.start(strip(turn_, ahead_), problem_.x, problem_.sizes,
                    ahead_j_ + ahead_ * kStripLines, width(ahead_, columns(ahead_j_)), ahead_p_,
                    depth(ahead_p_));
  }
  void step_ahead() {
    if (finished_ < end_ - first_) {
      finish_row();
      ++finished_;
    } else if (next_ < next_terms_) {
      prefetch_term();
      ++next_;
    } else if (ahead_ < ahead_strips_) {
      splitter_.step();
      if (splitter_.done()) end_strip();
    }
  }
  void end_strip() {
    splitter_.finish();
    if (++ahead_ < ahead_strips_) start_strip();
  }
  void finish_ahead() {
    for (; finished_ < end_ - first_; ++finished_) finish_row();
    while (ahead_ < ahead_strips_) end_strip();
  }

  void finish_row() const {
    with_activation<float>(problem_.epilogue.activation, [&](auto f) { finish_row(f); });
  }
  template <typename F>
  void finish_row(F f) const {
    const Conv2dSizes& s = problem_.sizes;
    const int64_t plane = s.out.area(), row = first_ + finished_, count = columns(to_finish_);
    const float* from = sums(to_finish_) + finished_ * kGroup;
    const E* const residual = problem_.epilogue.residual;
    const Vec<float> bias =
        problem_.bias ? broadcast(reduce_add(load(problem_.bias + row, 1))) : zero<float>();
    int64_t image = to_finish_ / plane, pixel = to_finish_ % plane;
    for (int64_t j = 0; j < count;) {
      const int64_t n = smaller(count - j, plane - pixel);
      const int64_t to = (image * s.out_channels + row) * plane + pixel;
      for_each_vec<float>(n, [&](int64_t i, int lanes) {
        Vec<float> v = load(from + j + i, lanes) + bias;
        if (residual) v += load(residual + to + i, lanes);
        store(problem_.y + to + i, f(v), lanes);
      });
      j += n;
      pixel = 0;
      ++image;
    }
  }

  const Problem<E>& problem_;
  int64_t first_, end_, terms_, strip_;
  char* strips_;
  float *sums_, *unsplit_;
  int64_t stop_ = 0;  // of the columns
  int turn_ = 0;
  struct {
    float* sums;
    int64_t i, j;
    int rows, cols;
  } whole_ = {};  // the last sums that are
  Unscaling unscaling_;
  PatchSplitter<E> splitter_;
  int64_t steps_ = 0, ahead_ = 0, ahead_strips_ = 0, ahead_j_ = 0, ahead_p_ = 0;
  bool in_line_ = problem_.sizes.is_pointwise() && problem_.sizes.stride == HeightWidth{1, 1};
  int64_t next_j_ = 0, next_p_ = 0, next_ = 0, next_terms_ = 0;
  int64_t to_finish_ = 0, finished_ = end_ - first_;  // a group, and its rows
};

template <typename E>
void run(E* y, const E* x, Strided<E> weight, const E* bias, const Conv2dSizes& s,
         const Epilogue<E>& epilogue) {
  const int64_t rows = s.out_channels, terms = s.taps();
  const int64_t strips = SplitRows<E>::strips(rows, terms);
  const int64_t bytes = strip_bytes<E>(tile_depth<E>(terms));
  const Workspace<char> parts(strips * bytes);
  const SplitRows<E> split{weight, parts.data(), ceil_div(rows, kStripLines), bytes};
  parallel_ranges(split.count, kSplitGrain / (terms * kStripLines) + 1,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin * kStripLines; i < end * kStripLines; i += kStripLines) {
                      split.split(i, static_cast<int>(smaller(kStripLines, rows - i)), terms);
                    }
                  });
  const Problem<E> problem{y, x, bias, s, epilogue, split};
  const int64_t columns = problem.columns(), groups = ceil_div(columns, kGroup);
  // Few columns: the rows are shared out as well, as much as is worth it.
  const int64_t most = smaller(ceil_div(rows, kMinRows), columns * rows * terms / kGrain);
  const int64_t blocks =
      larger(ceil_div(rows, kMaxRows), smaller(ceil_div(kMinTasks, groups), most));
  const int64_t height = round_up(ceil_div(rows, blocks), kStripLines);
  const int64_t least = ceil_div(kGrain, kGroup * height * terms);  // groups of a task
  const int64_t length = larger(least, ceil_div(groups, kMaxTasks)) * kGroup;
  const int64_t tasks = ceil_div(columns, length);
  parallel_for(ceil_div(rows, height) * tasks, [&](int64_t task) {
    const int64_t i = task / tasks * height, j = task % tasks * length;
    const Workspace<char> memory(in_huge_page(RowBlock<E>::memory(height, terms)));
    const Tiles tiles;
    RowBlock<E>(problem, i, smaller(i + height, rows), memory.data())
        .run(j, smaller(j + length, columns));
  });
}

// Planes of the same size in and out are read, and written, in a line.
void flatten(Conv2dSizes& s) {
  if (s.is_pointwise() && s.in == s.out) s.in = s.out = {1, s.out.area()};
}

template <typename E>
void forward(E* y, const E* x, const E* weight, const E* bias, const Conv2dSizes& sizes,
             const Epilogue<E>& epilogue) {
  Conv2dSizes s = sizes;
  flatten(s);
  run<E>(y, x, {weight, s.taps(), 1}, bias, s, epilogue);
}

template <typename E>
void input_gradient(E* dx, const E* dy, const E* weight, const Conv2dSizes& sizes) {
  Conv2dSizes s = sizes;
  s.channels = sizes.out_channels;
  s.out_channels = sizes.channels;
  flatten(s);
  run<E>(dx, dy, {weight, 1, sizes.channels}, nullptr, s, {});
}

}  // namespace

FASTDL_DEFINE_TILE_KERNELS(Conv2dTilesKernels, conv2d_tiles_kernels, forward<T>, input_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
