#include "ops/conv2d.h"

#include <algorithm>

#include "core/device.h"
#include "core/precision.h"
#include "core/trace.h"
#include "ops/conv2d_channels_last.h"
#include "ops/conv2d_device.h"
#include "ops/conv2d_halves.h"
#include "ops/conv2d_tiles.h"

namespace fastdl::ops {
namespace {

// With one input channel a group, up to this many output channels read a plane as it lies; more
// make a matrix product of it.
constexpr int64_t kMaxDepthwiseMultiplier = 8;
// More channels a group fill the lanes of the other kernels.
constexpr int64_t kMaxGroupedChannels = 16;
// With fewer channels to compute, too many lanes of the direct convolution would be idle.
constexpr int64_t kMinDirectChannels = 8;
// For lanes along the pixels: with fewer channels to compute, copies take longer than the products;
// with more products, or at a stride with many channels, lanes along the channels are as fast;
// smaller planes fill few lanes.
constexpr int64_t kMinPixelsChannels = 4, kMaxPixelsProducts = 400, kMinPixels = 32;
// Outputs of all images for which packing the weight takes too long, if it is as large as that: one
// image of 7x7, 256 to 512 channels, 0.52 instead of 0.90 ms; of 14x14, 128 to 256, 0.76 and 0.68.
constexpr int64_t kMaxFewOutputs = 64, kMinFewWeights = 1 << 16;
// Larger strides make more phases than it is worth to tell apart.
constexpr int64_t kMaxPhases = 16;
// Their 81 points must stay in L3: 256 to 256 channels take 1.8 times as long as the direct sum.
constexpr int64_t kMaxStride2Weights = 128 * 256;
// One image of 28x28 outputs, dx: 1.08 ms, 0.86 by the direct kernel; four 2.54 and 2.76.
constexpr int64_t kMinStride2Outputs = 1536;
// All rows of tiles that lie in one another are kept.
constexpr int64_t kMaxWinogradDilation = 16;
constexpr int64_t kMinDilatedChannels = 32;

void check_options(const char* op, const Conv2dOptions& o) {
  const auto positive = [&](const char* name, HeightWidth v) {
    check(v.h > 0 && v.w > 0, op, name, " must be positive, got (", v.h, ", ", v.w, ")");
  };
  positive("stride", o.stride);
  positive("dilation", o.dilation);
  check(o.groups > 0, op, "groups must be positive, got ", o.groups);
  if (!o.padding_mode) {
    check(o.padding.h >= 0 && o.padding.w >= 0, op, "padding must not be negative, got (",
          o.padding.h, ", ", o.padding.w, ")");
    return;
  }
  check(o.padding_mode == "same" || o.padding_mode == "valid", op,
        "padding must be an int, a pair, \"same\" or \"valid\", got \"", *o.padding_mode, '"');
  check(o.padding_mode == "valid" || o.stride == HeightWidth{1, 1}, op,
        "padding=\"same\" needs stride 1, got stride (", o.stride.h, ", ", o.stride.w, ")");
}

void check_channels(const char* op, const Tensor& x, const Tensor& weight, int64_t channels,
                    int64_t groups) {
  check(weight.shape[0] > 0, op, "weight has no output channels: shape ", weight.shape);
  check(weight.shape[0] % groups == 0, op, "weight has ", weight.shape[0],
        " output channels, which groups=", groups, " does not divide");
  check(checked_multiply(op, weight.shape[1], groups) == channels, op, "weight has ",
        weight.shape[1], " input channels per group, x has ", channels,
        " channels and groups=", groups);
  check(weight.shape[2] > 0 && weight.shape[3] > 0, op, "weight has an empty kernel: shape ",
        weight.shape);
  check(x.shape[x.ndim() - 2] > 0 && x.shape[x.ndim() - 1] > 0, op, "x has an empty plane: shape ",
        x.shape);
}

// The padding before the first element and the number of windows along one axis.
struct Axis {
  int64_t padding, out;
};

Axis axis(const char* op, const char* name, int64_t in, int64_t kernel, int64_t stride,
          int64_t dilation, int64_t padding, const std::optional<std::string>& mode) {
  const int64_t reach = checked_multiply(op, dilation, kernel - 1);
  const int64_t window = checked_add(op, reach, 1);
  if (mode == "same") return {reach / 2, in};  // the odd element comes after the last
  if (mode == "valid") padding = 0;
  const int64_t padded = checked_add(op, in, checked_multiply(op, 2, padding));
  check(window <= padded, op, "the window of weight is larger than the padded x: ", name, ' ',
        window, " > ", padded);
  return {padding, (padded - window) / stride + 1};
}

Conv2dSizes sizes_of(const char* op, const Tensor& x, const Tensor& weight,
                     const Conv2dOptions& o) {
  check_same_dtype(op, "weight", weight, "x", x);
  check(x.ndim() == 3 || x.ndim() == 4, op, "x must have shape (N, C, H, W) or (C, H, W), got ",
        x.shape);
  check(weight.ndim() == 4, op, "weight must have shape (out, in / groups, height, width), got ",
        weight.shape);
  check_options(op, o);
  const int64_t* const plane = x.shape.end() - 2;
  check_channels(op, x, weight, plane[-1], o.groups);
  const HeightWidth in{plane[0], plane[1]}, kernel{weight.shape[2], weight.shape[3]};
  const Axis h =
      axis(op, "height", in.h, kernel.h, o.stride.h, o.dilation.h, o.padding.h, o.padding_mode);
  const Axis w =
      axis(op, "width", in.w, kernel.w, o.stride.w, o.dilation.w, o.padding.w, o.padding_mode);
  return {.batch = x.ndim() == 4 ? x.shape[0] : 1,
          .groups = o.groups,
          .channels = plane[-1],
          .out_channels = weight.shape[0],
          .in = in,
          .kernel = kernel,
          .out = {h.out, w.out},
          .stride = o.stride,
          .dilation = o.dilation,
          .padding = {h.padding, w.padding}};
}

Shape y_shape(const Tensor& x, const Conv2dSizes& s) {
  Shape shape = x.shape;
  shape[x.ndim() - 3] = s.out_channels;
  shape[x.ndim() - 2] = s.out.h;
  shape[x.ndim() - 1] = s.out.w;
  return shape;
}

bool is_depthwise(const Conv2dSizes& s) {
  return s.group_channels() == 1 && s.group_out_channels() <= kMaxDepthwiseMultiplier;
}

// Whether the lanes can run along the flattened plane.
bool is_depthwise_same(const Conv2dSizes& s) {
  constexpr int64_t kExact = int64_t{1} << 24;  // a column in float32
  const int64_t k = s.kernel.h;
  const HeightWidth one{1, 1}, half{k / 2, k / 2};
  return s.group_channels() == 1 && s.group_out_channels() == 1 && (k == 3 || k == 5 || k == 7) &&
         s.kernel.w == k && s.stride == one && s.dilation == one && s.padding == half &&
         s.out == s.in && s.in.w < kExact;
}

// Groups of few channels, but more than one.
bool is_grouped(const Conv2dSizes& s) {
  const int64_t most = std::max(s.group_channels(), s.group_out_channels());
  return s.groups > 1 && s.group_channels() > 1 && most <= kMaxGroupedChannels && !s.is_pointwise();
}

// Whether a convolution to `outs` channels a group of size `out` has its lanes along the pixels.
bool is_along_pixels(int64_t outs, int64_t products, HeightWidth out, const Conv2dSizes& s) {
  const HeightWidth one{1, 1};
  return !is_grouped(s) && !s.is_pointwise() &&
         (s.stride == one || s.group_channels() < kMinDirectChannels) &&
         outs >= kMinPixelsChannels && products <= kMaxPixelsProducts && out.area() >= kMinPixels;
}

// Few outputs of many products.
bool is_along_taps(const Conv2dSizes& s) {
  const HeightWidth one{1, 1};
  return s.groups == 1 && !s.is_pointwise() && s.dilation == one && s.padding.h < s.kernel.h &&
         s.padding.w < s.kernel.w && s.batch * s.out.area() <= kMaxFewOutputs &&
         s.out_channels * s.taps() >= kMinFewWeights;
}

constexpr const char* kPointwise = "matrix product over the pixels of all images";

// How something is computed, and why not faster.
template <typename Kernel>
struct Choice {
  const char* name;
  Kernel run;  // null where it is done, or by another
  const char* reason = "";

  Choice because(const char* why) const { return {name, run, why}; }
};

// Winograd's algorithms, by their index in Conv2dWinogradKernels.
struct WinogradAlgorithm {
  const char *name, *packed_name;
  int64_t stride, taps, outputs, size;  // of a tile along an axis, and the products for them
  int64_t min_channels;                 // with fewer the transforms cost more than they save
  bool strict;                          // whether its error is within what that promises
};
constexpr WinogradAlgorithm kWinograd[kWinogradAlgorithms] = {
    {"Winograd F(4x4, 3x3)", "Winograd F(4x4, 3x3), weight packed", 1, 3, 4, 6, 16, false},
    {"Winograd F(2x2, 3x3)", "Winograd F(2x2, 3x3), weight packed", 1, 3, 2, 4, 16, true},
    {"Winograd F(2x2, 5x5)", "Winograd F(2x2, 5x5), weight packed", 1, 5, 2, 6, 32, false},
    {"Winograd F(4x4, 3x3) of stride 2", "Winograd F(4x4, 3x3) of stride 2, weight packed", 2, 3, 4,
     9, 48, false},
};
struct WinogradChoice {
  int index;
  const char *name, *packed_name, *reason;
};
constexpr const char* kNotFinite = "an inf or NaN would spread over a tile of Winograd's";

// Products for a channel, with those beyond the edges.
int64_t products(const WinogradAlgorithm& a, const Conv2dSizes& s, HeightWidth out) {
  return winograd_tiles(out.h, a.outputs, s.dilation.h) *
         winograd_tiles(out.w, a.outputs, s.dilation.w) * a.size * a.size;
}

// Whether it computes such convolutions, and of enough channels to be worth it.
bool serves(const WinogradAlgorithm& a, const Conv2dSizes& s, HeightWidth out) {
  const HeightWidth kernel{a.taps, a.taps}, stride{a.stride, a.stride}, one{1, 1};
  if (!(s.kernel == kernel && s.stride == stride)) return false;
  if (precision == Precision::strict && !a.strict) return false;
  const int64_t channels = s.group_channels(), outs = s.group_out_channels();
  const bool dilated = !(s.dilation == one);
  const int64_t fewest = dilated ? std::max(a.min_channels, kMinDilatedChannels) : a.min_channels;
  if (std::min(channels, outs) < fewest) return false;
  return a.stride == 1 || (!dilated && channels * outs <= kMaxStride2Weights &&
                           s.batch * out.area() >= kMinStride2Outputs);
}

// For a convolution to `out`, if one of Winograd's algorithms is faster.
std::optional<WinogradChoice> choose_winograd(const Conv2dSizes& s, HeightWidth out) {
  if (s.batch == 0 || std::max(s.dilation.h, s.dilation.w) > kMaxWinogradDilation) return {};
  if (is_grouped(s)) return {};
  int best = -1;
  for (int i = 0; i < kWinogradAlgorithms; ++i) {
    if (!serves(kWinograd[i], s, out)) continue;
    if (best < 0 || products(kWinograd[i], s, out) < products(kWinograd[best], s, out)) best = i;
  }
  if (best < 0) return {};
  const WinogradAlgorithm& a = kWinograd[best];
  if (3 * products(a, s, out) > 2 * s.kernel.area() * out.area()) return {};
  const bool strict = precision == Precision::strict;
  return WinogradChoice{best, a.name, a.packed_name, strict ? "the precision is strict" : ""};
}

// For the gradient of x, in which every stride-th element meets the same taps.
std::optional<WinogradChoice> choose_winograd_to_x(const Conv2dSizes& s) {
  const bool odd = s.padding.h % 2 == 1 && s.padding.w % 2 == 1;
  if (s.stride.area() > 1 && !odd) return {};
  return choose_winograd(
      s, {(s.in.h + s.stride.h - 1) / s.stride.h, (s.in.w + s.stride.w - 1) / s.stride.w});
}

template <typename T>
using Forward = void (*)(T*, const T*, const T*, const T*, const Conv2dSizes&, const Epilogue<T>&);

template <typename T>
Choice<Forward<T>> choose_forward(const T* weight, const Conv2dSizes& s) {
  const auto& kernels = conv2d_kernels<T>();
  if constexpr (std::is_same_v<T, float>) {
    if (const auto* tiles = choose_tiles_forward<T>(s)) return {kConv2dTiles, tiles->forward};
  }
  if (is_depthwise_same(s)) {
    if (kernels.all_finite(weight, s.out_channels * s.taps())) {
      return {"depthwise, lanes along the plane", conv2d_depthwise_same_kernels<T>().forward};
    }
    return {"depthwise, lanes along the width", conv2d_depthwise_kernels<T>().forward,
            "the weight holds inf or NaN"};
  }
  if (is_along_pixels(s.group_out_channels(), s.taps(), s.out, s)) {
    return {"direct, lanes along the pixels", conv2d_pixels_kernels<T>().forward};
  }
  if (is_depthwise(s)) {
    return {"depthwise, lanes along the width", conv2d_depthwise_kernels<T>().forward};
  }
  if (is_grouped(s)) {
    return {"grouped, lanes along the width", conv2d_grouped_kernels<T>().forward};
  }
  if (s.is_pointwise()) return {kPointwise, conv2d_pointwise_kernels<T>().forward};
  if (is_along_taps(s)) return {"direct, lanes along the taps", conv2d_taps_kernels<T>().forward};
  if (s.group_out_channels() >= kMinDirectChannels) {
    return {"direct, lanes along the channels", conv2d_direct_kernels<T>().forward};
  }
  return {"implicit GEMM, patches packed per block", kernels.forward};
}

template <typename T>
void forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* packed,
             const Tensor* bias, const Conv2dSizes& s, const Epilogue<T>& epilogue) {
  const T* bias_ptr = ptr_or_null<T>(bias);
  T* out = y.make("conv2d", y_shape(x, s), x.dtype).ptr<T>();
  const int64_t results = y.tensor().numel() * (epilogue.residual ? 2 : 1);
  const auto elements = static_cast<double>(x.numel() + weight.numel() + results);
  auto choice = choose_forward(weight.ptr<T>(), s);
  if (const auto winograd = choose_winograd(s, s.out)) {
    const auto& kernels = conv2d_winograd_kernels<T>().algorithms[winograd->index];
    // Every kernel and instruction set packs to a size of its own.
    if (packed && packed->numel() != kernels.packed_size(s)) packed = nullptr;
    trace(packed ? winograd->packed_name : winograd->name, conv2d_flops(s), sizeof(T) * elements,
          winograd->reason);
    if (kernels.forward(out, x.ptr<T>(), weight.ptr<T>(), ptr_or_null<T>(packed), bias_ptr, s,
                        epilogue)) {
      return;
    }
    choice = choice.because(kNotFinite);
  }
  trace(choice.name, conv2d_flops(s), sizeof(T) * elements, choice.reason);
  if (y.tensor().numel() == 0) return;
  choice.run(out, x.ptr<T>(), weight.ptr<T>(), bias_ptr, s, epilogue);
}

template <typename T>
using Gradient = void (*)(T*, const T*, const T*, const Conv2dSizes&);

template <typename T>
Choice<Gradient<T>> choose_input_gradient(const T* weight, const Conv2dSizes& s) {
  const auto& kernels = conv2d_kernels<T>();
  const Choice<Gradient<T>> scatter{"patches of the product added up",
                                    conv2d_scatter_kernels<T>().input_gradient};
  const HeightWidth one{1, 1};
  const bool pixels =
      s.stride == one &&
      is_along_pixels(s.group_channels(), s.group_out_channels() * s.kernel.area(), s.in, s);
  const bool depthwise = is_depthwise(s), grouped = is_grouped(s);
  if constexpr (std::is_same_v<T, float>) {
    if (choose_tiles_pointwise_gradient<T>(s)) return {kConv2dTiles, input_gradient_on_tiles};
  }
  if (s.is_pointwise() && !depthwise) {
    return {kPointwise, conv2d_pointwise_kernels<T>().input_gradient};
  }
  const bool direct = !grouped && s.group_channels() >= kMinDirectChannels;
  // A patch of dy packed for few channels costs more than the patches of few channels added up:
  // 3 -> 32 channels 3.3 times.
  if (!depthwise && !grouped && !direct && s.kernel.area() > 1 &&
      2 * s.group_channels() <= s.group_out_channels()) {
    return scatter;
  }
  // The fast ones multiply zeros around dy with the weights.
  if (!depthwise && !grouped && !direct && !(s.stride == one)) {
    return scatter.because("the stride is not 1, and there are few channels");
  }
  if (direct && !(s.stride == one) && !(s.dilation == one && s.stride.area() <= kMaxPhases)) {
    return scatter.because("the stride is large or with a dilation");
  }
  const int64_t phases = std::min(s.stride.h, s.in.h) * std::min(s.stride.w, s.in.w);
  if (grouped && phases > kMaxPhases) return scatter.because("the stride is large");
  if (!kernels.all_finite(weight, s.out_channels * s.taps())) {
    return scatter.because("the weight holds inf or NaN");
  }
  if (is_depthwise_same(s)) return {"depthwise", nullptr};  // with the other gradients, in one pass
  if (grouped) return {"grouped", nullptr};                 // likewise
  if (pixels) {
    return {"direct, lanes along the pixels", conv2d_pixels_kernels<T>().input_gradient};
  }
  if (depthwise) return {"depthwise", conv2d_depthwise_kernels<T>().input_gradient};
  if (direct)
    return {"direct, lanes along the channels", conv2d_direct_kernels<T>().input_gradient};
  return {"implicit GEMM with the flipped weight", kernels.input_gradient};
}

template <typename T>
Choice<Gradient<T>> choose_weight_gradient(const Conv2dSizes& s) {
  if (is_grouped(s)) return {"grouped", nullptr};
  if (is_depthwise(s)) return {"depthwise", conv2d_depthwise_kernels<T>().weight_gradient};
  if constexpr (std::is_same_v<T, float>) {
    if (tiles_take_weight_gradient<T>(s)) return {kConv2dTilesOverImages, weight_gradient_on_tiles};
  }
  return {"direct", conv2d_weight_gradient_kernels<T>().weight_gradient};
}

// Runs Winograd's kernel if one is chosen, kernel(i) for algorithm i; chooses another if there is
// none or its result is not finite.
template <typename T, typename Kernel, typename Otherwise>
Choice<Gradient<T>> try_winograd(const std::optional<WinogradChoice>& winograd, Kernel&& kernel,
                                 T* to, const T* from, const T* by, const Conv2dSizes& s,
                                 Otherwise&& otherwise) {
  if (!winograd) return otherwise();
  if (!kernel(winograd->index)(to, from, by, s)) return otherwise().because(kNotFinite);
  return {winograd->name, nullptr, winograd->reason};
}

void trace_backward(const char* dx_kernel, const char* dweight_kernel, const char* reason,
                    double flops, double bytes) {
  thread_local std::string name;  // trace() keeps the pointer
  name.clear();
  if (dx_kernel) name.append("dx: ").append(dx_kernel);
  if (dx_kernel && dweight_kernel) name.append("; ");
  if (dweight_kernel) name.append("dweight: ").append(dweight_kernel);
  if (name.empty()) name = "sums of dy";
  trace(name.c_str(), flops, bytes, reason);
}

template <typename T>
void backward(Output& dx, Output& dweight, Output& dbias, const Tensor& dy, const Tensor& x,
              const Tensor& weight, const Conv2dSizes& s, const std::array<bool, 3>& mask) {
  const auto op = "conv2d_backward";
  T* dx_ptr = mask[0] ? dx.make(op, x.shape, x.dtype).ptr<T>() : nullptr;
  T* dweight_ptr = mask[1] ? dweight.make(op, weight.shape, x.dtype).ptr<T>() : nullptr;
  T* dbias_ptr = mask[2] ? dbias.make(op, {s.out_channels}, x.dtype).ptr<T>() : nullptr;
  const T *dy_ptr = dy.ptr<T>(), *x_ptr = x.ptr<T>(), *weight_ptr = weight.ptr<T>();
  Choice<Gradient<T>> to_x{}, to_weight{};
  if (mask[0]) {
    const auto kernel = [](int i) {
      return conv2d_winograd_kernels<T>().algorithms[i].input_gradient;
    };
    to_x = try_winograd(choose_winograd_to_x(s), kernel, dx_ptr, dy_ptr, weight_ptr, s,
                        [&] { return choose_input_gradient<T>(weight_ptr, s); });
  }
  if (mask[1]) {
    const auto kernel = [](int i) {
      return conv2d_winograd_weight_gradient_kernels<T>().weight_gradient[i];
    };
    to_weight = try_winograd(choose_winograd(s, s.out), kernel, dweight_ptr, dy_ptr, x_ptr, s,
                             [&] { return choose_weight_gradient<T>(s); });
  }

  const int gradients = int{mask[0]} + int{mask[1]};
  const double elements =
      static_cast<double>(dy.numel()) + gradients * static_cast<double>(x.numel() + weight.numel());
  trace_backward(to_x.name, to_weight.name, *to_x.reason ? to_x.reason : to_weight.reason,
                 gradients * conv2d_flops(s), sizeof(T) * elements);
  if (to_x.run && x.numel() > 0) to_x.run(dx_ptr, dy_ptr, weight_ptr, s);
  if (is_depthwise_same(s) || is_grouped(s)) {
    const auto all = is_grouped(s) ? conv2d_grouped_kernels<T>().backward
                                   : conv2d_depthwise_same_kernels<T>().backward;
    all(to_x.run ? nullptr : dx_ptr, dweight_ptr, dbias_ptr, dy_ptr, x_ptr, weight_ptr, s);
    return;
  }
  if (to_weight.run && weight.numel() > 0) to_weight.run(dweight_ptr, dy_ptr, x_ptr, s);
  if (mask[2]) conv2d_kernels<T>().bias_gradient(dbias_ptr, dy_ptr, s);
}

}  // namespace

void conv2d_forward(Output& y, const Tensor& x, const Tensor& weight, const Tensor* packed,
                    const Tensor* bias, const Conv2dOptions& options,
                    const EpilogueOptions& epilogue) {
  const Conv2dSizes s = sizes_of("conv2d", x, weight, options);
  if (packed) check_same_dtype("conv2d", "packed", *packed, "x", x);
  if (bias) {
    check_same_dtype("conv2d", "bias", *bias, "x", x);
    check_shape("conv2d", "bias", *bias, {s.out_channels});
  }
  check_residual("conv2d", epilogue, y_shape(x, s), x);
  if (conv2d_forward_on_device(y, y_shape(x, s), x, weight, bias, s, epilogue)) return;
  if (x.channels_last) {
    return conv2d_channels_last_forward(y, y_shape(x, s), x, weight, packed, bias, s, options,
                                        epilogue);
  }
  if (is_half(x.dtype)) {
    const Tensor& out = y.make("conv2d", y_shape(x, s), x.dtype);
    const char* kernel = conv2d_halves_forward(out, x, weight, bias, s, epilogue);
    const int64_t results = out.numel() * (epilogue.residual ? 2 : 1);
    return trace(kernel, conv2d_flops(s),
                 sizeof(bfloat16) * static_cast<double>(x.numel() + weight.numel() + results));
  }
  dispatch_float(
      x.dtype, [&]<typename T>() { forward<T>(y, x, weight, packed, bias, s, epilogue.of<T>()); });
}

void pack_conv2d_weight(Output& packed, const Tensor& weight, int64_t groups) {
  const char* op = "pack_conv2d_weight";
  check(weight.ndim() == 4, op, "weight must have shape (out, in / groups, height, width), got ",
        weight.shape);
  check(groups > 0, op, "groups must be positive, got ", groups);
  check(weight.shape[0] % groups == 0, op, "weight has ", weight.shape[0],
        " output channels, which groups=", groups, " does not divide");
  const HeightWidth one{1, 1}, tile{4, 4};
  const Conv2dSizes s{.batch = 1,
                      .groups = groups,
                      .channels = checked_multiply(op, weight.shape[1], groups),
                      .out_channels = weight.shape[0],
                      .in = tile,
                      .kernel = {weight.shape[2], weight.shape[3]},
                      .out = tile,
                      .stride = one,
                      .dilation = one,
                      .padding = one};
  if (on_device([&](const Device&) { packed.make(op, {0}, weight.dtype); })) return;
  const auto winograd = choose_winograd(s, s.out);
  dispatch_float(weight.dtype, [&]<typename T>() {
    const auto& kernels = conv2d_winograd_kernels<T>().algorithms[winograd ? winograd->index : 0];
    const int64_t size = winograd ? kernels.packed_size(s) : 0;
    T* to = packed.make(op, {size}, weight.dtype).template ptr<T>();
    if (size > 0) kernels.pack(to, weight.ptr<T>(), s);
  });
}

void conv2d_backward(Output& dx, Output& dweight, Output& dbias, const Tensor& dy, const Tensor& x,
                     const Tensor& weight, const Conv2dOptions& options,
                     const std::array<bool, 3>& output_mask) {
  const char* op = "conv2d_backward";
  const Conv2dSizes s = sizes_of(op, x, weight, options);
  check_same_dtype(op, "dy", dy, "x", x);
  check_shape(op, "dy", dy, y_shape(x, s));
  if (conv2d_backward_on_device(dx, dweight, dbias, dy, x, weight, s, output_mask)) return;
  if (x.channels_last || weight.channels_last) {
    return conv2d_channels_last_backward(dx, dweight, dbias, dy, x, weight, s, options,
                                         output_mask);
  }
  if (is_half(x.dtype)) {
    const auto& mask = output_mask;
    const char* kernel = conv2d_halves_backward(
        mask[0] ? &dx.make(op, x.shape, x.dtype) : nullptr,
        mask[1] ? &dweight.make(op, weight.shape, x.dtype) : nullptr,
        mask[2] ? &dbias.make(op, {s.out_channels}, x.dtype) : nullptr, dy, x, weight, s);
    const int gradients = int{mask[0]} + int{mask[1]};
    const double elements = static_cast<double>(dy.numel()) +
                            gradients * static_cast<double>(x.numel() + weight.numel());
    return trace(kernel, gradients * conv2d_flops(s), sizeof(bfloat16) * elements);
  }
  dispatch_float(x.dtype, [&]<typename T>() {
    backward<T>(dx, dweight, dbias, dy, x, weight, s, output_mask);
  });
}

}  // namespace fastdl::ops
