// The gradient of the weight of a convolution by Winograd's algorithm:
//
//   V = B^T d B of each tile d of x, D = A dy A^T of the tile of dy it belongs to,
//   M[point] = D[point]^T V[point], (K x C) = (K x tiles) (tiles x C), dweight = G^T M G
//
// A job takes up to 128 x 128 channels, whose M stays close, and some of the tiles: it transforms
// both panels of a block of tiles at a time. With few jobs the tiles are divided into parts, whose
// gradients are added up in order.
#include "kernels/conv2d_winograd.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kJobPanels = 2;  // of rows and of columns: halves the transforms of a product
constexpr int64_t kMinJobs = 4;    // with fewer, the tiles are divided

template <typename T, typename W>
class WeightGradient {
 public:
  WeightGradient(T* dweight, const T* dy, const T* x, const Conv2dSizes& s)
      : dweight_(dweight),
        dy_(dy),
        x_(x),
        s_(s),
        blocks_(s, s.out, W::outputs, kMaxTiles<W>),
        row_jobs_(ceil_div(s.group_out_channels(), kJobPanels * kPanel)),
        col_jobs_(ceil_div(s.group_channels(), kJobPanels * kPanel)) {}

  // Whether all of dweight is finite.
  bool run() {
    const int64_t weights = s_.out_channels * s_.taps(), jobs = s_.groups * row_jobs_ * col_jobs_;
    const int64_t parts = larger(1, smaller(ceil_div(kMinJobs, jobs), blocks_.count));
    const Workspace<T> partial(parts > 1 ? parts * weights : 0);
    const Workspace<bool> finite(jobs * parts);
    parallel_for(jobs * parts, [&](int64_t i) {
      const int64_t part = i % parts;
      finite.data()[i] = run_job(parts > 1 ? partial.data() + part * weights : dweight_, i / parts,
                                 part * blocks_.count / parts, (part + 1) * blocks_.count / parts);
    });
    for (int64_t i = 0; i < jobs * parts; ++i) {
      if (!finite.data()[i]) return false;
    }
    if (parts > 1) add_parts(partial.data(), parts, weights);
    return true;
  }

 private:
  static constexpr int lanes = Vec<T>::lanes, size = W::size, points = size * size;

  int64_t tiles_size() const { return points * point_stride<T>(blocks_.most_tiles()); }
  static int64_t m_size() { return points * point_stride<T>(kPanel); }

  // dweight of some channels from the tiles of blocks begin..end-1.
  bool run_job(T* dweight, int64_t job, int64_t begin, int64_t end) const {
    const int64_t g = job / (row_jobs_ * col_jobs_), outs = s_.group_out_channels();
    const int64_t k0 = job / col_jobs_ % row_jobs_ * kJobPanels * kPanel;
    const int64_t c0 = job % col_jobs_ * kJobPanels * kPanel, channels = s_.group_channels();
    const int64_t rows = smaller(kJobPanels, ceil_div(outs - k0, kPanel));
    const int64_t cols = smaller(kJobPanels, ceil_div(channels - c0, kPanel));
    const auto width = [](int64_t left, int64_t panel) {
      return smaller(kPanel, left - panel * kPanel);
    };
    const int64_t scratch_size = larger(TileRows<T, Inputs<W>>::scratch(blocks_),
                                        TileRows<T, OutputGradients<W>>::scratch(blocks_));
    const Workspace<T> memory(
        in_huge_page<T>((rows + cols) * tiles_size() + rows * cols * m_size() + scratch_size));
    T *const v = memory.data(), *const d = v + cols * tiles_size();
    T *const m = d + rows * tiles_size(), *const scratch = m + rows * cols * m_size();
    const int64_t in = s_.in.area(), out = s_.out.area();
    for (int64_t block = begin; block < end; ++block) {
      for (int64_t i = 0; i < cols; ++i) {
        transform_tiles<T, W, Inputs<W>>(
            v + i * tiles_size(), x_ + (g * channels + c0 + i * kPanel) * in, s_.channels * in,
            width(channels - c0, i), s_.in, s_.padding, blocks_, block, scratch);
      }
      for (int64_t i = 0; i < rows; ++i) {
        transform_tiles<T, W, OutputGradients<W>>(
            d + i * tiles_size(), dy_ + (g * outs + k0 + i * kPanel) * out, s_.out_channels * out,
            width(outs - k0, i), s_.out, {0, 0}, blocks_, block, scratch);
      }
      const int64_t stride = point_stride<T>(blocks_.most_tiles());
      for (int64_t i = 0; i < rows * cols; ++i) {
        for (int p = 0; p < points; ++p) {
          multiply_panels<T, true>(
              m + i * m_size() + p * point_stride<T>(kPanel),
              d + i / cols * tiles_size() + p * stride, v + i % cols * tiles_size() + p * stride,
              width(outs - k0, i / cols), width(channels - c0, i % cols), blocks_.tiles(block),
              block > begin, point_stride<T>(kPanel), stride, stride);
        }
      }
    }
    Vec<T> zeros = zero<T>();
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t k = k0 + i / cols * kPanel, c = c0 + i % cols * kPanel;
      transform_back(dweight + ((g * outs + k) * channels + c) * W::taps * W::taps,
                     m + i * m_size(), smaller(kPanel, outs - k), smaller(kPanel, channels - c),
                     zeros);
    }
    return reduce_add(zeros) == 0;
  }

  // G^T M G of a panel, to dweight.
  void transform_back(T* dweight, const T* m, int64_t outs, int64_t channels, Vec<T>& zeros) const {
    constexpr int taps = W::taps * W::taps;
    T scratch[(taps + lanes) * lanes] = {};  // scatter_channels reads whole vectors
    for (int64_t k = 0; k < outs; ++k) {
      for_each_vec<T>(channels, [&](int64_t c, int valid) {
        transform_window(scratch, m + k * kPanel + c, zeros);
        scatter_channels(dweight + k * s_.taps() + c * taps, scratch, taps, valid, taps);
      });
    }
  }

  static void transform_window(T* to, const T* m, Vec<T>& zeros) {
    Vec<T> half[W::taps][size];
#pragma GCC unroll 1
    for (int j = 0; j < size; ++j) {
      Vec<T> column[size], dg[W::taps];
#pragma GCC unroll 16
      for (int i = 0; i < size; ++i) column[i] = load(m + (i * size + j) * point_stride<T>(kPanel));
      W::weight_gradient(dg, column);
#pragma GCC unroll 8
      for (int i = 0; i < W::taps; ++i) half[i][j] = dg[i];
    }
#pragma GCC unroll 8
    for (int i = 0; i < W::taps; ++i) {
      Vec<T> dg[W::taps];
      W::weight_gradient(dg, half[i]);
#pragma GCC unroll 8
      for (int j = 0; j < W::taps; ++j) {
        zeros = fma(dg[j], zero<T>(), zeros);
        store(to + (i * W::taps + j) * lanes, dg[j]);
      }
    }
  }

  void add_parts(const T* partial, int64_t parts, int64_t weights) const {
    parallel_ranges(weights, 16384, [&](int64_t begin, int64_t end) {
      for_each_vec<T>(end - begin, [&](int64_t i, int n) {
        Vec<T> sum = load(partial + begin + i, n);
        for (int64_t part = 1; part < parts; ++part) {
          sum += load(partial + part * weights + begin + i, n);
        }
        store(dweight_ + begin + i, sum, n);
      });
    });
  }

  T* dweight_;
  const T *dy_, *x_;
  Conv2dSizes s_;
  TileBlocks blocks_;
  int64_t row_jobs_, col_jobs_;
};

template <typename T, typename W>
bool weight_gradient(T* dweight, const T* dy, const T* x, const Conv2dSizes& s) {
  return WeightGradient<T, W>(dweight, dy, x, s).run();
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dWinogradWeightGradientKernels, conv2d_winograd_weight_gradient_kernels,
                      {weight_gradient<T, Winograd<T, 4, 3>>, weight_gradient<T, Winograd<T, 2, 3>>,
                       weight_gradient<T, Winograd<T, 2, 5>>,
                       weight_gradient<T, WinogradStride2<T>>})

}  // namespace fastdl::FASTDL_ISA
