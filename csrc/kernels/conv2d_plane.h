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
    for (int64_t h = 0; h < length(part); h += 64 / sizeof(T))
      __builtin_prefetch(plane + to + h, 0, 2);
  }
  // Where the first element of the i-th is.
  FASTDL_INLINE const T* copied(const T* scratch, int64_t i) const {
    return scratch + i * copy_size() + margin_;
  }

 private:
  // A vector may be read from any element, and zeros are written by the vector.
  int64_t copy_size() const { return smaller(size_, kPlanePart) + 2 * margin_ + 2 * Vec<T>::lanes; }

  int64_t size_, width_, margin_, count_;
  Workspace<T> columns_;
};

// visit(r * K + s, what the taps r < ROWS, s < K of row `x` of the window read).
template <int K, int ROWS, typename T, typename Visit>
FASTDL_INLINE void for_each_tap(const T* x, Vec<T> column, int64_t width, Visit&& visit) {
#pragma GCC unroll 8
  for (int s = 0; s < K; ++s) {
    const int beyond = s - K / 2;
    const Mask<T> inside = beyond < 0 ? column >= broadcast(static_cast<T>(-beyond))
                                      : column < broadcast(static_cast<T>(width - beyond));
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec<T> v = load(x + r * width + beyond);
      visit(r * K + s, beyond == 0 ? v : select(inside, v, zero<T>()));
    }
  }
}

}  // namespace fastdl::FASTDL_ISA
