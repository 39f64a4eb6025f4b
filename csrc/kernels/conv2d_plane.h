// A convolution that keeps the size of a plane, with the lanes along the flattened plane: element p
// of the result reads the elements p + (r - K/2) * width + s - K/2 for the taps r, s of a K x K
// window. Lanes run on over the ends of rows, so no row has a tail, however short it is; a lane
// whose column s reaches beyond its row reads 0. Rows above and below the plane are zeros around a
// copy of the part of the plane at work.
#pragma once

#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {

constexpr int64_t kPlanePart = 2048;  // elements: with the copy and the columns 24 KB of float32

template <typename T>
class PlaneParts {
 public:
  PlaneParts(HeightWidth plane, int kernel)
      : size_(plane.area()),
        width_(plane.w),
        margin_(kernel / 2 * (plane.w + 1)),
        count_(ceil_div(size_, kPlanePart)),
        columns_(plane.w + smaller(size_, kPlanePart) + Vec<T>::lanes) {
    T* columns = columns_.data();
    const int64_t count = plane.w + smaller(size_, kPlanePart) + Vec<T>::lanes;
    for (int64_t i = 0, column = 0; i < count; ++i) {
      columns[i] = static_cast<T>(column);
      column = column + 1 < width_ ? column + 1 : 0;
    }
  }

  int64_t count() const { return count_; }
  // Pieces are the parts of all planes in order.
  int64_t plane(int64_t piece) const { return count_ == 1 ? piece : piece / count_; }
  int64_t part(int64_t piece) const { return count_ == 1 ? 0 : piece % count_; }
  int64_t begin(int64_t part) const { return part * kPlanePart; }
  int64_t length(int64_t part) const { return smaller(kPlanePart, size_ - begin(part)); }
  // The columns of a part's elements, in T.
  const T* columns(int64_t part) const { return columns_.data() + begin(part) % width_; }

  // Several small planes are copied before the first is read: a load across the border of two fresh
  // stores would wait for both to reach the cache.
  int64_t at_once() const { return larger(kPlanePart / copy_size(), 1); }
  int64_t scratch() const { return at_once() * copy_size(); }
  // How much further what is copied after the at_once() pieces lies.
  int64_t ahead() const { return count_ == 1 ? at_once() * size_ : kPlanePart; }
  // Copies a part and what its windows reach as the i-th.
  FASTDL_INLINE void copy(T* scratch, int64_t i, const T* plane, int64_t part) const {
    constexpr int lanes = Vec<T>::lanes;
    const int64_t first = begin(part) - margin_, end = first + length(part) + 2 * margin_;
    const int64_t from = larger(first, 0), to = smaller(end, size_);
    T* copy = scratch + i * copy_size();
    for (int64_t h = first; h < from; h += lanes) store(copy + (h - first), zero<T>());
    for_each_vec<T>(to - from, [&](int64_t h, int n) {
      store(copy + (from - first) + h, load(plane + from + h, n), n);
    });
    for (int64_t h = to; h < end + lanes; h += lanes) store(copy + (h - first), zero<T>());
  }
  // Where the first element of the i-th is.
  FASTDL_INLINE const T* copied(const T* scratch, int64_t i) const {
    return scratch + i * copy_size() + margin_;
  }

 private:
  // A vector may be read from any element, and zeros are written by the vector.
  int64_t copy_size() const { return smaller(size_, kPlanePart) + 2 * margin_ + 3 * Vec<T>::lanes; }

  int64_t size_, width_, margin_, count_;
  Workspace<T> columns_;
};

// The rows under a window that moves along a line, a vector at a time. What lies to its right is
// shifted in from the next vector, so that half of the loads remain: most of them straddle two
// cache lines.
template <int K, int ROWS, typename T>
class WindowRows {
 public:
  FASTDL_INLINE WindowRows(const T* x, int64_t width) : x_(x), width_(width) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) next_[r] = load(x + r * width);
  }
  // visit(r * K + s, what the taps r < ROWS, s < K read, which lanes of it lie in their row) for
  // the elements from i on, which is a vector more than the last time.
  template <typename Visit>
  FASTDL_INLINE void step(int64_t i, Vec<T> column, Visit&& visit) {
    Mask<T> inside[K];
#pragma GCC unroll 8
    for (int s = 0; s < K; ++s) {
      const int beyond = s - K / 2;
      inside[s] = beyond < 0 ? column >= broadcast(static_cast<T>(-beyond))
                             : column < broadcast(static_cast<T>(width_ - beyond));
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const T* const from = x_ + r * width_ + i;
      const Vec<T> here = next_[r];
      next_[r] = load(from + Vec<T>::lanes);
#pragma GCC unroll 8
      for (int s = 0; s < K / 2; ++s) visit(r * K + s, load(from + s - K / 2), inside[s]);
      visit(r * K + K / 2, here, inside[K / 2]);
      const auto right = [&]<int N>() FASTDL_INLINE_LAMBDA {
        if constexpr (N <= K / 2) {
          const int s = K / 2 + N;
          visit(r * K + s, load_beyond<N>(from, here, next_[r]), inside[s]);
        }
      };
      right.template operator()<1>();
      right.template operator()<2>();
      right.template operator()<3>();
    }
  }

 private:
  const T* x_;
  int64_t width_;
  Vec<T> next_[ROWS];
};

}  // namespace fastdl::FASTDL_ISA
