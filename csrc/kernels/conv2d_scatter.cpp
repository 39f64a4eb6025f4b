// dx[n, c, p * stride + (i, j) * dilation] += sum_k weight[k, c, i, j] dy[n, k, p]
//
// For each image and a few channels, the matrix product (C R S x K) (K x pixels) a band of pixels
// at a time; its rows are added, one tap after the other, to planes that hold their columns modulo
// the stride apart (TapRows), so that the lanes run along the width for any stride.
#include <string.h>

#include "core/gemm.h"
#include "kernels/conv2d_layout.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kProductRows = 384;    // of the product, at a time: with a band, some 256 KB
constexpr int64_t kPlanes = 256 * 1024;  // bytes of planes that are added to
constexpr int64_t kMinBlocks = 8;        // with fewer images, channels are divided further

// Adds rows i0..i0+m-1 of the product, (channel, tap) each, to the planes.
template <typename T>
void add_rows(T* planes, const T* product, int64_t ld, int64_t i0, int64_t m, const Conv2dSizes& s,
              const TapRows<T>& layout, const Bands& bands, int64_t band) {
  const HeightWidth first = bands.first(band);
  const int64_t width = smaller(bands.size.w, s.out.w - first.w);
  const int64_t height = bands.outputs(band) / width, area = s.kernel.area();
  for (int64_t i = 0; i < m; ++i) {
    const int64_t c = (i0 + i) / area, tap = (i0 + i) % area;
    T* plane = planes + c * layout.plane() + tap / s.kernel.w * layout.tap_step() +
               layout.columns()[tap % s.kernel.w] + first.w;
    for (int64_t row = 0; row < height; ++row) {
      T* to = plane + (first.h + row) * layout.out_step();
      const T* from = product + i * ld + row * width;
      for_each_vec<T>(width, [=](int64_t w, int lanes) {
        store(to + w, load(to + w, lanes) + load(from + w, lanes), lanes);
      });
    }
  }
}

template <typename T>
void input_gradient(T* dx, const T* dy, const T* weight, const Conv2dSizes& s) {
  const int64_t channels = s.group_channels(), outs = s.group_out_channels();
  const int64_t area = s.kernel.area(), images = s.batch * s.groups;
  const Bands bands(s.out, GemmTile<T>::max_cols / 2);
  // Whole planes, in whole vectors: a row would wait for the store to the row before it if they
  // overlapped (LeNet's 6 channels of 14x14: 0.66 ms instead of 0.38).
  const TapRows<T> layout(s, s.out, Vec<T>::lanes);

  const int64_t fit = larger(kPlanes / (layout.plane() * int64_t{sizeof(T)}), 1);
  const int64_t parts =
      smaller(channels, larger(ceil_div(channels, fit), ceil_div(kMinBlocks, images)));
  const int64_t part = ceil_div(channels, parts);
  const double flops = 2.0 * static_cast<double>(part * area) * static_cast<double>(outs + 4) *
                       static_cast<double>(s.out.area());
  const auto grain = static_cast<int64_t>(1e6 / flops) + 1;  // some 10 us

  parallel_ranges(images * parts, grain, [&](int64_t begin, int64_t end) {
    const int64_t ld = bands.size.area();
    const Workspace<T> product(kProductRows * ld), gemm(gemm_scratch<T>(ld, outs));
    const Workspace<T> planes(layout.scratch(part));
    for (int64_t block = begin; block < end; ++block) {
      const int64_t c0 = block % parts * part, image = block / parts;
      const int64_t count = smaller(part, channels - c0);
      if (count <= 0) continue;
      const T* group = weight + (image % s.groups * outs * channels + c0) * area;
      memset(planes.data(), 0, static_cast<size_t>(count * layout.plane()) * sizeof(T));
      for (int64_t band = 0; band < bands.count; ++band) {
        const T* from = dy + image * outs * s.out.area() + bands.offset(band);
        const PackCols<T> columns{{from, s.out.area(), 1}};
        for (int64_t i0 = 0; i0 < count * area; i0 += kProductRows) {
          const int64_t m = smaller(kProductRows, count * area - i0);
          gemm_block<T>(product.data(), ld, m, bands.outputs(band), outs,
                        PackRows<T>{{group + i0, 1, channels * area}}, columns, {}, gemm.data());
          add_rows(planes.data(), product.data(), ld, i0, m, s, layout, bands, band);
        }
      }
      T* to = dx + (image * channels + c0) * s.in.area();
      memset(to, 0, static_cast<size_t>(count * s.in.area()) * sizeof(T));
      for (int64_t c = 0; c < count; ++c) {
        layout.add_to(to + c * s.in.area(), planes.data() + c * layout.plane(), {0, 0});
      }
    }
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(Conv2dScatterKernels, conv2d_scatter_kernels, input_gradient<T>)

}  // namespace fastdl::FASTDL_ISA
