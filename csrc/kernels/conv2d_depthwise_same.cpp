// conv2d with one input and one output channel a group, stride 1 and a window of K x K around each
// element, K = 3, 5 or 7: the lanes run along the flattened plane (conv2d_plane.h).
//
// The gradient of x is the same convolution of dy with the window turned round. The gradient of the
// weight multiplies dy with what each tap reads; its sums stay in vectors from plane to plane, and
// go on in double every kMaxVectors additions. One pass over dy and x gives all gradients, a part
// of a plane in L1 at a time.
#include "core/apply_epilogue.h"
#include "kernels/conv2d_plane.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kMaxVectors = 256;
constexpr int64_t kMinBlocks = 16;
constexpr int64_t kBlockOutputs = 16384;  // some 10 us for K = 3

// `ahead`: as much of what will be read next comes to L2 meanwhile. Weights are finite: taps beyond
// the ends of a row are left out, not multiplied by 0.
template <int K, typename T>
void convolve(T* y, const T* x, const T* columns, int64_t width, int64_t length, const T* weight,
              T start, const T* ahead) {
  Vec<T> factor[K * K];
  for (int i = 0; i < K * K; ++i) factor[i] = broadcast(weight[i]);
  WindowRows<K, K, T> rows(x - K / 2 * width, width);
  for_each_vec<T>(length, [&](int64_t i, int lanes) {
    __builtin_prefetch(ahead + i, 0, 2);
    Vec<T> sum = broadcast(start);
    rows.step(i, load(columns + i), [&](int tap, Vec<T> v, Mask<T> inside) {
      const bool center = tap % K == K / 2;
      sum = center ? fma(factor[tap], v, sum) : fma(factor[tap], v, sum, inside);
    });
    store(y + i, sum, lanes);
  });
}

template <int K, typename T>
void forward_window(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
                    const Epilogue<T>& epilogue) {
  const PlaneParts<T> parts(s.in, K);
  const int64_t plane = s.in.area();
  const int64_t grain = ceil_div(kBlockOutputs, smaller(plane, kPlanePart));
  parallel_ranges(s.batch * s.channels * parts.count(), grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(parts.scratch());
    for (int64_t first = begin; first < end; first += parts.at_once()) {
      const int64_t count = smaller(parts.at_once(), end - first);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = parts.plane(first + i);
        parts.copy(scratch.data(), i, x + at * plane, parts.part(first + i));
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = parts.plane(first + i), part = parts.part(first + i);
        const int64_t c = at % s.channels;
        T* to = y + at * plane + parts.begin(part);
        convolve<K>(to, parts.copied(scratch.data(), i), parts.columns(part), s.in.w,
                    parts.length(part), weight + c * K * K, bias ? bias[c] : 0,
                    x + (to - y) + parts.ahead());
        apply_epilogue(to, 0, 1, parts.length(part), epilogue.at(to - y));
      }
    }
  });
}

// Sums of products for each tap of one channel's window, and the sum of dy.
template <int K, typename T>
class WindowSums {
 public:
  explicit WindowSums(double* totals) : totals_(totals) {
    for (int i = 0; i <= K * K; ++i) {
      totals_[i] = 0;
      sums_[i] = zero<T>();
    }
  }

  void add(const T* dy, const T* x, const T* columns, int64_t width, int64_t length,
           const T* ahead) {
    added_ += ceil_div(length, Vec<T>::lanes);
    if (added_ > kMaxVectors) {
      flush();
      added_ = ceil_div(length, Vec<T>::lanes);
    }
    constexpr int kRows = K == 3 ? 3 : 1;  // as many sums as registers hold
    for (int r = 0; r < K; r += kRows) {
      const T* row = x + (r - K / 2) * width;
      Vec<T> sum[kRows * K], total = sums_[K * K];
      for (int i = 0; i < kRows * K; ++i) sum[i] = sums_[r * K + i];
      WindowRows<K, kRows, T> rows(row, width);
      for_each_vec<T>(length, [&](int64_t i, int lanes) {
        const Vec<T> gradient = load(dy + i, lanes);
        if (r == 0) __builtin_prefetch(ahead + i, 0, 2);
        total += gradient;
        rows.step(i, load(columns + i), [&](int tap, Vec<T> v, Mask<T> inside) {
          if (lanes < Vec<T>::lanes) inside = inside & first_lanes<T>(lanes);
          const bool whole = lanes == Vec<T>::lanes && tap % K == K / 2;
          if (!whole) v = select(inside, v, zero<T>());
          sum[tap] = fma(gradient, v, sum[tap]);
        });
      });
      for (int i = 0; i < kRows * K; ++i) sums_[r * K + i] = sum[i];
      if (r == 0) sums_[K * K] = total;
    }
  }

  void flush() {
    for (int i = 0; i <= K * K; ++i) {
      totals_[i] += static_cast<double>(reduce_add(sums_[i]));
      sums_[i] = zero<T>();
    }
  }

 private:
  double* totals_;
  Vec<T> sums_[K * K + 1];
  int64_t added_ = 0;
};

template <int K, typename T>
void backward_window(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
                     const Conv2dSizes& s) {
  const PlaneParts<T> parts(s.in, K);
  const int64_t plane = s.in.area();
  // A channel's parts of planes are cut into `cuts` blocks, where there are few channels.
  const int64_t pieces = s.batch * parts.count();
  const int64_t worth = pieces * smaller(plane, kPlanePart) / kBlockOutputs;
  const int64_t cuts = larger(smaller(worth, ceil_div(kMinBlocks, s.channels)), 1);
  const int64_t length = ceil_div(pieces, cuts), sums = K * K + 1;
  const Workspace<double> totals(cuts * s.channels * sums);
  const int64_t ahead = smaller(plane, kPlanePart);  // the next part, or the next channel
  const int64_t grain = ceil_div(kBlockOutputs, 2 * length * smaller(plane, kPlanePart) + 1);
  parallel_ranges(s.channels * cuts, grain, [&](int64_t begin, int64_t end) {
    const Workspace<T> scratch(parts.scratch());
    for (int64_t block = begin; block < end; ++block) {
      const int64_t c = block / cuts, first = block % cuts * length;
      const int64_t last = smaller(first + length, pieces);
      T turned[K * K];
      for (int i = 0; i < K * K; ++i) turned[i] = weight[(c + 1) * K * K - 1 - i];
      WindowSums<K, T> window(totals.data() + block * sums);
      const auto plane_of = [&](int64_t i) { return parts.plane(i) * s.channels + c; };
      const auto copy = [&](const T* from, int64_t i, int64_t count) {
        for (int64_t k = 0; k < count; ++k) {
          parts.copy(scratch.data(), k, from + plane_of(i + k) * plane, parts.part(i + k));
        }
      };
      // run(offset of a piece's first element, the copy of it, its columns, its length)
      const auto for_each_copy = [&](int64_t i, int64_t count, auto&& run) {
        for (int64_t k = 0; k < count; ++k) {
          const int64_t part = parts.part(i + k);
          run(plane_of(i + k) * plane + parts.begin(part), parts.copied(scratch.data(), k),
              parts.columns(part), parts.length(part));
        }
      };
      for (int64_t i = first; i < last; i += parts.at_once()) {
        const int64_t count = smaller(parts.at_once(), last - i);
        if (dx) {
          copy(dy, i, count);
          for_each_copy(i, count, [&](int64_t at, const T* from, const T* columns, int64_t n) {
            convolve<K>(dx + at, from, columns, s.in.w, n, turned, T(0), dy + at + ahead);
          });
        }
        if (dweight || dbias) {
          copy(x, i, count);
          for_each_copy(i, count, [&](int64_t at, const T* from, const T* columns, int64_t n) {
            window.add(dy + at, from, columns, s.in.w, n, x + at + ahead);
          });
        }
      }
      window.flush();
    }
  });
  for (int64_t c = 0; c < s.channels; ++c) {
    for (int64_t i = 0; i < sums; ++i) {
      double sum = 0;
      for (int64_t cut = 0; cut < cuts; ++cut) sum += totals.data()[(c * cuts + cut) * sums + i];
      if (i < K * K && dweight) dweight[c * K * K + i] = static_cast<T>(sum);
      if (i == K * K && dbias) dbias[c] = static_cast<T>(sum);
    }
  }
}

template <typename T>
void forward(T* y, const T* x, const T* weight, const T* bias, const Conv2dSizes& s,
             const Epilogue<T>& epilogue) {
  if (s.kernel.h == 3) return forward_window<3>(y, x, weight, bias, s, epilogue);
  if (s.kernel.h == 5) return forward_window<5>(y, x, weight, bias, s, epilogue);
  forward_window<7>(y, x, weight, bias, s, epilogue);
}

template <typename T>
void backward(T* dx, T* dweight, T* dbias, const T* dy, const T* x, const T* weight,
              const Conv2dSizes& s) {
  if (s.kernel.h == 3) return backward_window<3>(dx, dweight, dbias, dy, x, weight, s);
  if (s.kernel.h == 5) return backward_window<5>(dx, dweight, dbias, dy, x, weight, s);
  backward_window<7>(dx, dweight, dbias, dy, x, weight, s);
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dDepthwiseSameKernels, conv2d_depthwise_same_kernels, forward<T>,
                      backward<T>)

}  // namespace fastdl::FASTDL_ISA
