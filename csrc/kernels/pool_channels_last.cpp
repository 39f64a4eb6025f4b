// Pooling of images with the channels last: the lanes run along the channels, of which every pixel
// has a run, so that windows of any size and place are alike. A result lists what it is made of,
// elements of a window or windows over an element, and then goes through its channels once.
#include "kernels/pool_channels_last.h"

#include "core/buffer_pool.h"
#include "core/integers.h"
#include "core/parallel.h"
#include "core/reduce.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 32768;  // elements read by a block: some 10 us
constexpr int64_t kFewTaps = 64;   // added one after the other

FASTDL_INLINE int64_t longest(const int64_t* begin, const int64_t* end, int64_t count) {
  int64_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = larger(most, end[i] - begin[i]);
  return most;
}

// body(image, row, room) for the rows of all images of `rows`; room for as many pieces as an
// element of them can have.
template <typename Piece, typename Body>
FASTDL_INLINE void for_each_row(const PoolChannelsLastSizes& s, int64_t rows, int64_t width,
                                int64_t pieces, Body&& body) {
  const int64_t work = width * s.channels * larger(pieces, 1);
  parallel_ranges(s.batch * rows, kGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
    const Workspace<Piece> room(pieces);
    for (int64_t k = begin; k < end; ++k) body(k / rows, k % rows, room.data());
  });
}

// The elements of window (row, column) of x, an image: how many there are.
template <typename T>
FASTDL_INLINE int64_t list_elements(const T** list, const T* x, const PoolChannelsLastSizes& s,
                                    int64_t row, int64_t column) {
  int64_t count = 0;
  for (int64_t r = s.rows.begin[row]; r < s.rows.end[row]; ++r) {
    for (int64_t c = s.columns.begin[column]; c < s.columns.end[column]; ++c) {
      list[count++] = x + (r * s.columns.size + c) * s.channels;
    }
  }
  return count;
}

// body(row, column, y's channels there, list, count) for every window.
template <typename T, typename Body>
FASTDL_INLINE void for_each_window(const T* x, const PoolChannelsLastSizes& s, Body&& body) {
  const int64_t most = longest(s.rows.begin, s.rows.end, s.rows.output) *
                       longest(s.columns.begin, s.columns.end, s.columns.output);
  const int64_t size = s.rows.size * s.columns.size * s.channels;
  for_each_row<const T*>(
      s, s.rows.output, s.columns.output, most, [&](int64_t n, int64_t row, const T** list) {
        for (int64_t column = 0; column < s.columns.output; ++column) {
          const int64_t count = list_elements(list, x + n * size, s, row, column);
          const int64_t at = ((n * s.rows.output + row) * s.columns.output + column) * s.channels;
          body(row, column, at, list, count);
        }
      });
}

// One window over an element of dx.
template <typename T>
struct Window {
  const T* dy;
  const T* codes;
  T number;  // of the element in the window, or 1 / the window's divisor
};

// body(dx's channels there, list, count) for every element; number(row, column, r, c) is what an
// element has of a window over it.
template <typename T, typename Body, typename Number>
FASTDL_INLINE void for_each_element(const T* dy, const T* codes, const PoolChannelsLastSizes& s,
                                    Number&& number, Body&& body) {
  const int64_t most = longest(s.rows.first, s.rows.last, s.rows.size) *
                       longest(s.columns.first, s.columns.last, s.columns.size);
  for_each_row<Window<T>>(
      s, s.rows.size, s.columns.size, most, [&](int64_t n, int64_t row, Window<T>* list) {
        for (int64_t column = 0; column < s.columns.size; ++column) {
          int64_t count = 0;
          for (int64_t r = s.rows.first[row]; r < s.rows.last[row]; ++r) {
            for (int64_t c = s.columns.first[column]; c < s.columns.last[column]; ++c) {
              const int64_t at = ((n * s.rows.output + r) * s.columns.output + c) * s.channels;
              list[count++] = {dy + at, codes ? codes + at : nullptr, number(row, column, r, c)};
            }
          }
          body(((n * s.rows.size + row) * s.columns.size + column) * s.channels, list, count);
        }
      });
}

template <typename T>
void average(T* y, const T* x, const PoolChannelsLastSizes& s, const T* of_rows,
             const T* of_columns) {
  for_each_window(x, s,
                  [&](int64_t row, int64_t column, int64_t at, const T* const* list,
                      int64_t count) FASTDL_INLINE_LAMBDA {
                    const Vec<T> inverse = broadcast(T(1) / (of_rows[row] * of_columns[column]));
                    for_each_vec<T>(s.channels, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
                      const auto term = [=](int64_t k) FASTDL_INLINE_LAMBDA {
                        return load(list[k] + i, lanes);
                      };
                      Vec<T> sum = zero<T>();
                      if (count <= kFewTaps) {
                        for (int64_t k = 0; k < count; ++k) sum += term(k);
                      } else {
                        sum = blocked_lane_sum<T>(count, term);
                      }
                      store(y + at + i, sum * inverse, lanes);
                    });
                  });
}

template <typename T>
void spread(T* dx, const T* dy, const PoolChannelsLastSizes& s, const T* of_rows,
            const T* of_columns) {
  const auto inverse = [=](int64_t, int64_t, int64_t r, int64_t c)
                           FASTDL_INLINE_LAMBDA { return T(1) / (of_rows[r] * of_columns[c]); };
  for_each_element(dy, static_cast<const T*>(nullptr), s, inverse,
                   [&](int64_t at, const Window<T>* list, int64_t count) FASTDL_INLINE_LAMBDA {
                     for_each_vec<T>(s.channels, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
                       Vec<T> sum = zero<T>();
                       for (int64_t k = 0; k < count; ++k) {
                         sum = fma(load(list[k].dy + i, lanes), broadcast(list[k].number), sum);
                       }
                       store(dx + at + i, sum, lanes);
                     });
                   });
}

// Of equal elements the first, with its sign of zero; of several NaN the last.
template <typename T>
void maxima(T* y, uint8_t* codes, const T* x, const PoolChannelsLastSizes& s) {
  for_each_window(x, s,
                  [&](int64_t, int64_t column, int64_t at, const T* const* list, int64_t count)
                      FASTDL_INLINE_LAMBDA {
                        const int64_t width = s.columns.end[column] - s.columns.begin[column];
                        for_each_vec<T>(s.channels, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
                          Vec<T> best = load(list[0] + i, lanes), found = zero<T>();
                          int64_t code = 0, left = width;
                          for (int64_t k = 1; k < count; ++k) {
                            code += 1;
                            if (--left == 0) {
                              code += s.widest - width;
                              left = width;
                            }
                            const Vec<T> v = load(list[k] + i, lanes);
                            const Mask<T> hit = (v > best) | is_nan(v);
                            best = select(hit, v, best);
                            if (codes) found = select(hit, broadcast(static_cast<T>(code)), found);
                          }
                          store(y + at + i, best, lanes);
                          if (!codes) return;
                          T numbers[Vec<T>::lanes];
                          store(numbers, found);
                          for (int k = 0; k < lanes; ++k)
                            codes[at + i + k] = static_cast<uint8_t>(numbers[k]);
                        });
                      });
}

// The codes are widened beforehand: an element compares those of all its windows.
template <typename T>
void gather(T* dx, const T* dy, const uint8_t* codes, const PoolChannelsLastSizes& s) {
  const int64_t outputs = s.batch * s.rows.output * s.columns.output * s.channels;
  const Workspace<T> wide(outputs);
  parallel_ranges(outputs, kGrain, [&](int64_t begin, int64_t end) {
    T* to = wide.data();
    for (int64_t i = begin; i < end; ++i) to[i] = static_cast<T>(codes[i]);
  });
  const auto number = [=](int64_t row, int64_t column, int64_t r, int64_t c) FASTDL_INLINE_LAMBDA {
    return static_cast<T>((row - s.rows.begin[r]) * s.widest + column - s.columns.begin[c]);
  };
  const T* numbers = wide.data();
  for_each_element(dy, numbers, s, number,
                   [&](int64_t at, const Window<T>* list, int64_t count) FASTDL_INLINE_LAMBDA {
                     for_each_vec<T>(s.channels, [&](int64_t i, int lanes) FASTDL_INLINE_LAMBDA {
                       Vec<T> sum = zero<T>();
                       for (int64_t k = 0; k < count; ++k) {
                         const Mask<T> hit =
                             load(list[k].codes + i, lanes) == broadcast(list[k].number);
                         sum = select(hit, sum + load(list[k].dy + i, lanes), sum);
                       }
                       store(dx + at + i, sum, lanes);
                     });
                   });
}

}  // namespace

FASTDL_DEFINE_KERNELS(PoolChannelsLastKernels, pool_channels_last_kernels, average<T>, spread<T>,
                      maxima<T>, gather<T>)

}  // namespace fastdl::FASTDL_ISA
