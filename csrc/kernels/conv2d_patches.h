// The patches of x that a convolution multiplies, laid out for AMX's tiles: 32 outputs at a time,
// of all images in one line, are the columns of a matrix whose terms are the taps of all channels.
#pragma once

#include "core/split.h"
#include "kernels/conv2d_tiles.h"

namespace fastdl::FASTDL_ISA {

// What 32 consecutive outputs read: pieces of rows of y, each of which reads in a line of x.
template <typename E>
class Patches {
 public:
  void set(const E* x, const Conv2dSizes& s, int64_t column, int columns) {
    x_ = x;
    s_ = &s;
    count_ = 0;
    int64_t image = column / s.out.area(), row = column % s.out.area() / s.out.w;
    int64_t at = column % s.out.w;
    for (int begin = 0; begin < columns; begin += pieces_[count_++].length) {
      const auto length = static_cast<int>(smaller(columns - begin, s.out.w - at));
      const int64_t h = row * s.stride.h - s.padding.h, w = at * s.stride.w - s.padding.w;
      pieces_[count_] = {image * s.channels * s.in.area() + h * s.in.w + w, begin, length};
      for (int i = 0; i < s.kernel.h; ++i) {
        const int64_t tap = h + i * s.dilation.h;
        rows_[i][count_] = tap >= 0 && tap < s.in.h ? ~0u : 0;
      }
      for (int j = 0; j < s.kernel.w; ++j) {
        const int64_t tap = w + j * s.dilation.w;
        columns_[j][count_] = outputs_before(s.in.w - tap, length) & ~outputs_before(-tap, length);
      }
      at = 0;
      if (++row < s.out.h) continue;
      row = 0;
      ++image;
    }
  }

  // Whether memory holds them as lines of columns, a plane apart.
  bool in_line() const { return count_ == 1 && s_->is_pointwise() && s_->stride.w == 1; }
  Strided<E> line(int64_t term) const {
    return {x_ + pieces_[0].from + term * s_->in.area(), 1, s_->in.area()};
  }

  // Terms first..first+n-1 of each column: a term's are kStripLines elements, and what is behind
  // the last term's is overwritten.
  void copy(E* to, int64_t first, int64_t n) const {
    const HeightWidth kernel = s_->kernel, dilation = s_->dilation;
    const int64_t width = s_->in.w, plane = s_->in.area();
    const bool dense = s_->stride.w == 1;
    int64_t channel = first / kernel.area(), i = first % kernel.area() / kernel.w;
    int64_t j = first % kernel.w;
    for (int64_t q = 0; q < n; ++q, to += kStripLines) {
      const E* const from = x_ + channel * plane + i * dilation.h * width + j * dilation.w;
      const unsigned *const rows = rows_[i], *const columns = columns_[j];
      for (int k = 0; k < count_; ++k) {
        const Piece piece = pieces_[k];
        if (dense) {
          copy_lanes(to + piece.begin, from + piece.from, rows[k] & columns[k], piece.length);
        } else {
          copy_even_lanes(to + piece.begin, from + piece.from, rows[k] & columns[k], piece.length);
        }
      }
      if (++j < kernel.w) continue;
      j = 0;
      if (++i < kernel.h) continue;
      i = 0;
      ++channel;
    }
  }

 private:
  struct Piece {
    int64_t from;  // of its first output, what the first tap of the first channel reads
    int begin, length;
  };

  // Those of `length` outputs, as bits, that read less than `end` elements on.
  unsigned outputs_before(int64_t end, int length) const {
    const int64_t n = end > 0 ? smaller(ceil_div(end, s_->stride.w), length) : 0;
    return n == kStripLines ? ~0u : (1u << n) - 1;
  }

  static FASTDL_INLINE __m512i load_words(unsigned mask, const void* from) {
    return _mm512_maskz_loadu_epi16(mask, from);
  }
  static FASTDL_INLINE __m512 load_floats(unsigned mask, const float* from) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
  }
  // Zeros where the mask has none.
  static FASTDL_INLINE void copy_lanes(E* to, const E* from, unsigned mask, int length) {
    if constexpr (sizeof(E) == 2) {
      _mm512_storeu_si512(to, load_words(mask, from));
    } else {
      _mm512_storeu_ps(to, load_floats(mask, from));
      if (length > 16) _mm512_storeu_ps(to + 16, load_floats(mask >> 16, from + 16));
    }
  }
  static FASTDL_INLINE void copy_even_lanes(E* to, const E* from, unsigned mask, int length) {
    const uint64_t read = _pdep_u64(mask, 0x5555555555555555);
    const auto low = static_cast<unsigned>(read), high = static_cast<unsigned>(read >> 32);
    if constexpr (sizeof(E) == 2) {
      const __m512i a = load_words(low, from), b = load_words(high, from + 32);
      const __m512i even = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                                              _mm512_cvtepi32_epi16(b), 1);
      _mm512_storeu_si512(to, even);
    } else {
      const auto half = [&](int at, unsigned bits) FASTDL_INLINE_LAMBDA {
        store(to + at, even_lanes(Vec<float>{load_floats(bits, from + 2 * at)},
                                  Vec<float>{load_floats(bits >> 16, from + 2 * at + 16)}));
      };
      half(0, low);
      if (length > 16) half(16, high);
    }
  }

  const E* x_ = nullptr;
  const Conv2dSizes* s_ = nullptr;
  int count_ = 0;
  Piece pieces_[kStripLines];
  // Which outputs of a piece find an element under a row, or a column, of taps.
  unsigned rows_[kMaxTilesWindow][kStripLines], columns_[kMaxTilesWindow][kStripLines];
};

// Splits patches into a strip, a little at a time, so that it can be done while tiles are
// multiplied.
template <typename E>
class PatchSplitter {
 public:
  void start(char* strip, const E* x, const Conv2dSizes& s, int64_t column, int columns,
             int64_t first, int64_t depth) {
    patches_.set(x, s, column, columns);
    in_line_ = patches_.in_line();
    strip_ = strip;
    columns_ = columns;
    first_ = first;
    depth_ = depth;
    term_ = copied_ = 0;
    paired_ = 0;
    if (in_line_) splitter_ = {strip, patches_.line(first), columns, depth};
  }

  // So many steps, or fewer.
  static int64_t steps(int64_t depth) {
    constexpr int64_t kSplit = kParts<E> == 1 ? 2 : 2 * Splitter<E, false>::kQuarters;
    return ceil_div(depth, kStepTerms) * (kStepTerms / kCopiedTerms + kSplit);
  }
  bool done() const { return in_line_ ? splitter_.done() : term_ >= depth_; }

  void step() {
    if (in_line_) return splitter_.step();
    const int64_t terms = smaller(kStepTerms, depth_ - term_);
    if (copied_ < terms) return copy(terms);
    if constexpr (kParts<E> == 1) {
      pair();
      if (paired_ < kTilePairs) return;
      paired_ = 0;
    } else {
      splitter_.step();
      if (!splitter_.done()) return;
    }
    strip_ += kStepBytes<E>;
    term_ += terms;
    copied_ = 0;
  }
  void finish() {
    while (!done()) step();
  }

 private:
  static constexpr int64_t kCopiedTerms = 8;  // in a step

  void copy(int64_t terms) {
    const int64_t n = smaller(kCopiedTerms, terms - copied_);
    patches_.copy(copy_ + copied_ * kStripLines, first_ + term_ + copied_, n);
    copied_ += n;
    if (copied_ < terms) return;
    if constexpr (kParts<E> == 1) {
      for (int64_t q = terms; q < kStepTerms; ++q) {
        _mm512_store_si512(copy_ + q * kStripLines, _mm512_setzero_si512());
      }
    } else {
      splitter_ = {strip_, {copy_, 1, kStripLines}, columns_, terms};
    }
  }
  // Of so many terms, each two that follow one another become pairs, of all columns at once.
  void pair() {
    const __m512i halves = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const int end = paired_ + static_cast<int>(kCopiedTerms);
    for (; paired_ < end; ++paired_) {
      const E* const terms = copy_ + 2 * paired_ * kStripLines;
      const __m512i even = _mm512_permutexvar_epi64(halves, _mm512_load_si512(terms));
      const __m512i odd = _mm512_permutexvar_epi64(halves, _mm512_load_si512(terms + kStripLines));
      char* const to = strip_ + paired_ * 64;
      _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(to + kTileBytes, _mm512_unpackhi_epi16(even, odd));
    }
  }

  Patches<E> patches_;
  Splitter<E, false> splitter_;
  bool in_line_ = false;
  char* strip_ = nullptr;
  int columns_ = 0, paired_ = 0;
  int64_t first_ = 0, depth_ = 0, term_ = 0, copied_ = 0;
  alignas(64) E copy_[(kStepTerms + 1) * kStripLines];
};

}  // namespace fastdl::FASTDL_ISA
