// Sums of products of matrices on AMX's tiles: a block of C in L2, in float, whatever A and B are.
//
//   multiply_in_tiles<E>(c, ld, m, n, k, a, b, scratch)     C = A B
//
// a(i, rows, p, depth) says where rows i.. of A lie from term p on, as Strided<E>; b(j, cols, p,
// depth) likewise columns j.. of B, as the rows of its transpose; one of the strides is 1. A may
// be SplitRows, split before. C has whole strips of rows and columns; n <= kMaxTileColumns.
// scratch has room for tile_scratch<E>(n, k) bytes, 64-byte aligned.
//
// Tiles are multiplied by a unit of their own. While it works, the vector units lay out what it
// takes next: 128 of their instructions in 32 terms cost nothing, more cost as much as alone.
#pragma once

#include "core/split.h"

namespace fastdl::FASTDL_ISA {

// A strip of A (25 KB) stays in L1, and all of B's (393 KB, twice) in L2.
template <typename E>
constexpr int64_t kTileDepth = 384 / kParts<E>;
constexpr int64_t kMaxTileColumns = 512, kMaxStrips = kMaxTileColumns / kStripLines;

template <typename E>
FASTDL_INLINE int64_t tile_depth(int64_t k) {
  return smaller(round_up(larger(k, 1), kStepTerms), kTileDepth<E>);
}

template <typename E>
FASTDL_INLINE int64_t tile_scratch(int64_t n, int64_t k) {
  const int64_t depth = tile_depth<E>(k);
  return 2 * strip_bytes<E>(depth) * (1 + ceil_div(n, kStripLines)) +
         2 * kStripLines * depth * int64_t{sizeof(float)};
}

// Rows of A in strips for kTileDepth terms each: first those of the first terms.
template <typename E>
struct SplitRows {
  Strided<E> matrix;
  char* data;
  int64_t count, bytes;  // of strips for the same terms, of one

  static int64_t strips(int64_t rows, int64_t k) {
    return ceil_div(rows, kStripLines) * ceil_div(larger(k, 1), kTileDepth<E>);
  }

  FASTDL_INLINE Strided<E> operator()(int64_t i, int, int64_t p, int64_t) const {
    return {matrix.data + i * matrix.row_stride + p * matrix.col_stride, matrix.row_stride,
            matrix.col_stride};
  }
  FASTDL_INLINE char* strip(int64_t i, int64_t p) const {
    return data + (p / kTileDepth<E> * count + i / kStripLines) * bytes;
  }
  // The strips of up to 32 rows and k terms.
  void split(int64_t i, int rows, int64_t k) const {
    for (int64_t p = 0; p == 0 || p < k; p += kTileDepth<E>) {
      const int64_t depth = smaller(kTileDepth<E>, k - p);
      Splitter<E, true>(strip(i, p), (*this)(i, rows, p, depth), rows, depth).finish();
    }
  }
  // Rows i.. and terms p.., multiples of a strip's.
  SplitRows from(int64_t i, int64_t p) const {
    return {(*this)(i, 0, p, 0), strip(i, p), count, bytes};
  }
};

template <typename E, typename A, typename B>
class TileProduct {
 public:
  TileProduct(float* c, int64_t ld, int64_t m, int64_t n, int64_t k, A& a, B& b, char* scratch)
      : c_(c),
        ld_(ld),
        m_(m),
        n_(n),
        k_(k),
        a_(a),
        b_(b),
        strip_(strip_bytes<E>(tile_depth<E>(k))),
        strips_(ceil_div(n, kStripLines)),
        scratch_(scratch) {}

  void run() {
    for (int64_t j = 0; j < strips_; ++j) split_b(0, j).finish();
    if constexpr (kSplitsA) ahead_a_ = split_a(0, 0);
    for (int64_t p = 0; p == 0 || p < k_; p += kDepth) {
      for (int64_t i = 0; i < m_; i += kStripLines) {
        if constexpr (kSplitsA) {
          ahead_a_.finish();
          multiply(p, i, strip_a(p, i));
        } else {
          multiply(p, i, a_.strip(i, p));
        }
      }
      finish_b();
    }
    unscale();
  }

 private:
  static constexpr int64_t kDepth = kTileDepth<E>;
  static constexpr bool kSplitsA = !requires(A& a) { a.strip(0, 0); };

  static int lines(int64_t i, int64_t count) {
    return static_cast<int>(smaller(kStripLines, count - i));
  }
  int64_t depth(int64_t p) const { return smaller(kDepth, k_ - p); }
  // Those of the next terms, or of the next rows, are split while these are multiplied.
  char* strip_a(int64_t p, int64_t i) const {
    return scratch_ + (p / kDepth * ceil_div(m_, kStripLines) + i / kStripLines) % 2 * strip_;
  }
  char* strip_b(int64_t p, int64_t j) const {
    return scratch_ + (2 + p / kDepth % 2 * strips_ + j) * strip_;
  }
  Splitter<E, true> split_a(int64_t p, int64_t i) const {
    return {strip_a(p, i), a_(i, lines(i, m_), p, depth(p)), lines(i, m_), depth(p)};
  }
  Splitter<E, false> split_b(int64_t p, int64_t strip) const {
    const int64_t j = strip * kStripLines;
    return {strip_b(p, strip), b_(j, lines(j, n_), p, depth(p)), lines(j, n_), depth(p)};
  }

  // All of C that rows i.. and these terms make; meanwhile the next rows are split, or come to L2,
  // and a share of B's next terms is split.
  void multiply(int64_t p, int64_t i, const char* strip_of_a) {
    const int rows = lines(i, m_);
    const bool last_rows = i + kStripLines >= m_, last_terms = p + kDepth >= k_;
    const char* next_a = nullptr;
    quarters_ = 0;
    if (!last_rows || !last_terms) {
      const int64_t next_p = last_rows ? p + kDepth : p, next_i = last_rows ? 0 : i + kStripLines;
      if constexpr (kSplitsA) {
        ahead_a_ = split_a(next_p, next_i);
        quarters_ += Splitter<E, true>::quarters(lines(next_i, m_), depth(next_p));
      } else {
        next_a = a_.strip(next_i, next_p);
      }
    }
    next_terms_ = p + kDepth;
    if (!last_terms) {
      const int64_t all = ceil_div(m_, kStripLines);
      end_b_ = (i / kStripLines + 1) * strips_ / all;
      quarters_ += (end_b_ - i / kStripLines * strips_ / all) *
                   Splitter<E, false>::quarters(kStripLines, depth(next_terms_));
    }
    slots_ = strips_ * ceil_div(depth(p), kStepTerms);
    slot_ = done_ = 0;
    const int64_t ahead = next_a ? round_up(ceil_div(strip_, slots_), 64) : 0;
    const auto meanwhile = [this, ahead, &next_a]() FASTDL_INLINE_LAMBDA {
      for (int64_t i = 0; i < ahead; i += 64) __builtin_prefetch(next_a + i, 0, 2);
      next_a += ahead;
      unscaling_.step();
      ++slot_;
      while (done_ * slots_ < quarters_ * slot_) {
        step_ahead();
        ++done_;
      }
    };
    const bool add = p > 0;
    for (int64_t s = 0; s < strips_; ++s) {
      const int64_t j = s * kStripLines;
      float* const to = c_ + i * ld_ + j;
      const int cols = lines(j, n_);
      multiply_strips<kParts<E>>(to, ld_, strip_of_a, strip_b(p, s), rows, cols, depth(p), add,
                                 meanwhile);
      if (kParts<E> > 1 && last_terms) {
        unscale();
        unscaling_ = {to, ld_, rows, cols, kUnscale<E>};
        whole_ = {i, j, rows, cols};
      }
    }
  }

  // The block of C whose sums are whole.
  void unscale() {
    if (unscaling_.finish()) return;
    const auto [i, j, rows, cols] = whole_;
    auto* const scratch = reinterpret_cast<float*>(scratch_ + 2 * (1 + strips_) * strip_);
    for (int64_t p = 0; p == 0 || p < k_; p += kDepth) {
      multiply_unsplit(c_ + i * ld_ + j, ld_, a_(i, rows, p, depth(p)), b_(j, cols, p, depth(p)),
                       rows, cols, depth(p), p > 0, scratch);
    }
  }

  void step_ahead() {
    if constexpr (kSplitsA) {
      if (!ahead_a_.done()) return ahead_a_.step();
    }
    if (next_terms_ < k_ && next_b_ < end_b_) step_b();
  }
  void step_b() {
    if (!splitting_b_) ahead_b_ = split_b(next_terms_, next_b_);
    splitting_b_ = true;
    ahead_b_.step();
    if (!ahead_b_.done()) return;
    ++next_b_;
    splitting_b_ = false;
  }
  void finish_b() {
    while (next_terms_ < k_ && next_b_ < strips_) step_b();
    next_b_ = 0;
  }

  float* c_;
  int64_t ld_, m_, n_, k_;
  A& a_;
  B& b_;
  int64_t strip_, strips_;  // the size of one, and how many of B there are
  char* scratch_;
  struct {
    int64_t i, j;
    int rows, cols;
  } whole_ = {};
  Unscaling unscaling_;
  Splitter<E, true> ahead_a_;
  Splitter<E, false> ahead_b_;
  bool splitting_b_ = false;
  int64_t next_terms_ = 0, next_b_ = 0, end_b_ = 0;  // of B, what is split ahead
  int64_t quarters_ = 0, done_ = 0, slots_ = 0, slot_ = 0;
};

template <typename E, typename A, typename B>
void multiply_in_tiles(float* c, int64_t ld, int64_t m, int64_t n, int64_t k, A&& a, B&& b,
                       char* scratch) {
  TileProduct<E, A, B>(c, ld, m, n, k, a, b, scratch).run();
}

}  // namespace fastdl::FASTDL_ISA
