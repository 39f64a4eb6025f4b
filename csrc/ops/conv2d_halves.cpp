#include "ops/conv2d_halves.h"

#include "ops/conv2d_tiles.h"
#include "ops/convert.h"
#include "ops/matmul.h"

namespace fastdl::ops {
namespace {

constexpr const char* kPairs = "matrix product of bfloat16 pairs on x as it lies";
// With fewer outputs or terms, tiles are mostly empty.
constexpr int64_t kMinWindowOuts = 16, kMinWindowTerms = 32;

// body<E>() for the type of x.
template <typename Body>
bool dispatch_half(const Tensor& x, Body&& body) {
  return x.dtype == DType::bfloat16 ? body.template operator()<bfloat16>()
                                    : body.template operator()<float16>();
}

// So many images at a time that their sums in float32 (2 MB), and the pairs their channels are made
// into, are still in the caches when they are read again.
constexpr int64_t kMaxSums = 1 << 19;

// y[n] = A x[n] for images of (rows, pixels) and (terms, pixels); the plan lacks the images.
void multiply_images(const Tensor& y, const Tensor& a, const Tensor& x, const Tensor* bias,
                     const GemmPlan& matrix, int64_t batch, const EpilogueOptions& epilogue) {
  const int64_t to = matrix.m * matrix.n, from = matrix.k * matrix.n;
  const int64_t step = std::max<int64_t>(kMaxSums / std::max<int64_t>(to, 1), 1);
  for (int64_t n = 0; n < batch; n += step) {
    const int64_t count = std::min(step, batch - n);
    GemmPlan plan = matrix;
    plan.batch = {{{count, 0, from}}, 1, count};
    Tensor residual;
    if (epilogue.residual) residual = part(*epilogue.residual, n * to, count * to);
    run_gemm(part(y, n * to, count * to), a, part(x, n * from, count * from), bias, plan,
             {epilogue.activation, epilogue.residual ? &residual : nullptr});
  }
}

}  // namespace

bool conv2d_takes_windows(DType dtype, const Shape& weight, HeightWidth stride) {
  // A product of float16 is four of bfloat16: Winograd's algorithms in float32 are as fast.
  if (dtype == DType::float16 && stride.area() == 1) return false;
  const HeightWidth kernel{weight[2], weight[3]};
  return conv2d_tiles_kernels<bfloat16>() && tiles_serve(kernel, stride, 1) &&
         weight[0] >= kMinWindowOuts && weight.numel(1, 4) >= kMinWindowTerms;
}

const char* conv2d_halves_forward(const Tensor& y, const Tensor& x, const Tensor& weight,
                                  const Tensor* bias, const Conv2dSizes& s,
                                  const EpilogueOptions& epilogue) {
  if (y.numel() == 0) return kPairs;
  const bool done = dispatch_half(x, [&]<typename E>() {
    const auto* const kernels = choose_tiles_forward<E>(s);
    if (!kernels) return false;
    kernels->forward(y.ptr<E>(), x.ptr<E>(), weight.ptr<E>(), ptr_or_null<E>(bias), s,
                     epilogue.of<E>());
    return true;
  });
  if (done) return kConv2dTiles;
  const int64_t pixels = s.in.area(), outs = s.out_channels, channels = s.channels;
  GemmPlan plan = {outs, pixels, channels, channels, 1, pixels, 1};
  plan.bias_row_stride = 1;
  multiply_images(y, weight, x, bias, plan, s.batch, epilogue);
  return kPairs;
}

const char* conv2d_halves_backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias,
                                   const Tensor& dy, const Tensor& x, const Tensor& weight,
                                   const Conv2dSizes& s) {
  const int64_t pixels = s.in.area(), outs = s.out_channels, channels = s.channels;
  const char* kernel = kPairs;
  if (dx) {
    const bool done = dispatch_half(x, [&]<typename E>() {
      const auto* const kernels = choose_tiles_pointwise_gradient<E>(s);
      if (kernels) kernels->input_gradient(dx->ptr<E>(), dy.ptr<E>(), weight.ptr<E>(), s);
      return kernels != nullptr;
    });
    if (done) {
      kernel = kConv2dTiles;
    } else {
      const GemmPlan plan = {channels, pixels, outs, 1, channels, pixels, 1};
      multiply_images(*dx, weight, dy, nullptr, plan, s.batch, {});
    }
  }
  if (dweight) {
    GemmPlan plan = weight_gradient_plan(s);
    run_gemm(*dweight, dy, x, nullptr, plan);
  }
  if (dbias) {
    const Workspace<float> wide(dy.numel()), sums(outs);
    widen(wide.data(), dy);
    conv2d_kernels<float>().bias_gradient(sums.data(), wide.data(), s);
    narrow(*dbias, sums.data());
  }
  return kernel;
}

}  // namespace fastdl::ops
