// y = (x - mean) * rstd * weight + bias for every channel,  rstd = 1 / sqrt(var + eps)
//
// Backward, with xhat = (x - mean) * rstd and g = dy * weight: dweight = sum dy * xhat,
// dbias = sum dy, dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) in training, else rstd * g.
//
// Three kernels, bound by memory: the sums of parts of channels (batch_norm_passes.h), the terms of
// every channel made of them, the map. Training reads x twice and writes once, of which the last
// 50 MB or so of the first reading come from L2.
#include "cuda/batch_norm.h"

#include "cuda/batch_norm_passes.h"
#include "cuda/moments.h"

namespace fastdl::cuda {
namespace {

constexpr int kChannels = 8;  // of a block that puts sums together, a warp each

struct MomentReduction {
  using Sum = Moments;
  __device__ Sum none() const { return {0, 0, 0}; }

  template <int N, typename C, typename Value>
  __device__ void add(Sum& sum, int count, C, Value&& value) const {
    sum = merge(sum, moments_of<N, C>(count, [&](int k) { return value(0, k); }));
  }
};

// sum dy and sum dy * (x - mean).
struct GradientSums {
  double a, b;
};
__device__ inline GradientSums merge(const GradientSums& a, const GradientSums& b) {
  return {a.a + b.a, a.b + b.b};
}

// Inputs: dy, x.
struct GradientReduction {
  using Sum = GradientSums;
  __device__ Sum none() const { return {0, 0}; }

  template <int N, typename C, typename Value>
  __device__ void add(Sum& sum, int count, C mean, Value&& value) const {
    C a = 0, b = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k >= count) continue;
      a += value(0, k);
      b += value(0, k) * (value(1, k) - mean);
    }
    sum.a += static_cast<double>(a);
    sum.b += static_cast<double>(b);
  }
};

// All parts of channel c, by the lanes of a warp.
template <typename Op, typename Sum>
__device__ Sum sum_of_parts(const Op& op, const Sum* sums, int64_t c, int64_t channels,
                            int64_t splits) {
  Sum sum = op.none();
  for (int64_t k = threadIdx.x; k < splits; k += kWarp) sum = merge(sum, sums[k * channels + c]);
  return warp_reduce(sum, Merge());
}

struct Normalise {
  template <typename C>
  __device__ C operator()(const C (&in)[1], const Terms<C>& t) const {
    return (in[0] - t.v[0]) * t.v[1] + t.v[2];
  }
};

// Inputs: dy, x.
struct TrainingGradient {
  template <typename C>
  __device__ C operator()(const C (&in)[2], const Terms<C>& t) const {
    return (in[0] - t.v[1] - (in[1] - t.v[0]) * t.v[2]) * t.v[3];
  }
};

template <typename T>
struct ForwardChannels {
  Compute<T>*mean, *rstd;
  Parameter<T> running_mean, running_var, weight, bias;
  double momentum, eps;
};

// The terms of Normalise. In training the sums are given, and move the running statistics.
template <typename T>
__global__ void __launch_bounds__(kChannels* kWarp, 1)
    forward_terms_kernel(Terms<Compute<T>>* terms, const Moments* sums, ForwardChannels<T> a,
                         int64_t channels, int64_t splits) {
  using C = Compute<T>;
  const int64_t c = int64_t{blockIdx.x} * kChannels + threadIdx.y;
  if (c >= channels) return;
  double mean = 0, var = 0;
  if (sums) {
    const Moments m = sum_of_parts(MomentReduction(), sums, c, channels, splits);
    if (m.count > 0) {
      mean = m.mean;
      var = m.squares / m.count;
    }
    if (threadIdx.x > 0) return;
    if (m.count > 0 && a.running_mean) {
      const auto move = [&](const Parameter<T>& running, double batch) {
        const double before = static_cast<double>(running.load(c));
        running.store(c, static_cast<C>((1 - a.momentum) * before + a.momentum * batch));
      };
      move(a.running_mean, mean);
      move(a.running_var, m.squares / (m.count - 1));
    }
  } else {
    if (threadIdx.x > 0) return;
    mean = static_cast<double>(a.running_mean.load(c));
    var = static_cast<double>(a.running_var.load(c));
  }
  const double rstd = 1 / sqrt(var + a.eps),
               scale = rstd * static_cast<double>(a.weight.load(c, 1));
  const double bias = static_cast<double>(a.bias.load(c, 0));
  // The mean is not rounded: its rest goes into the shift.
  const C center = static_cast<C>(mean);
  const double rest = mean - static_cast<double>(center);
  const double shift = isfinite(rest) && rest != 0 ? bias - rest * scale : bias;
  a.mean[c] = center;
  a.rstd[c] = static_cast<C>(rstd);
  terms[c] = {{center, static_cast<C>(scale), static_cast<C>(shift), C{0}}};
}

template <typename T>
struct BackwardChannels {
  Parameter<T> dweight, dbias, weight, mean, rstd;
  double count;
  bool training;
};

// The terms of TrainingGradient, or of Normalise in evaluation.
template <typename T>
__global__ void __launch_bounds__(kChannels* kWarp, 1)
    backward_terms_kernel(Terms<Compute<T>>* terms, const GradientSums* sums, BackwardChannels<T> a,
                          int64_t channels, int64_t splits) {
  using C = Compute<T>;
  const int64_t c = int64_t{blockIdx.x} * kChannels + threadIdx.y;
  if (c >= channels) return;
  const auto sum = sum_of_parts(GradientReduction(), sums, c, channels, splits);
  if (threadIdx.x > 0) return;
  const double rstd = static_cast<double>(a.rstd.load(c));
  const double scale = rstd * static_cast<double>(a.weight.load(c, 1));
  if (a.dweight) a.dweight.store(c, static_cast<C>(rstd * sum.b));
  if (a.dbias) a.dbias.store(c, static_cast<C>(sum.a));
  if (a.training) {
    terms[c] = {{a.mean.load(c), static_cast<C>(sum.a / a.count),
                 static_cast<C>(rstd * rstd * sum.b / a.count), static_cast<C>(scale)}};
  } else {
    terms[c] = {{C{0}, static_cast<C>(scale), C{0}, C{0}}};
  }
}

Grid channels_grid(int64_t channels) {
  return {static_cast<unsigned>(ceil_div<int64_t>(channels, kChannels)), {kWarp, kChannels}};
}

// Whether the arrays, null where absent, may be worked on in packs.
template <typename T>
bool in_packs(BatchNormSizes s, std::initializer_list<const void*> arrays) {
  const int64_t neighbours = s.inner > 1 ? s.inner : s.channels;
  return neighbours % kPackSize<T> == 0 && std::all_of(arrays.begin(), arrays.end(), is_aligned);
}

int64_t numel(BatchNormSizes s) { return s.batch * s.channels * s.inner; }

}  // namespace

void BatchNorm::forward(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x,
                        const Tensor* running_mean, const Tensor* running_var, const Tensor* weight,
                        const Tensor* bias, BatchNormSizes sizes, bool training, double momentum,
                        double eps) const {
  if (sizes.channels == 0) return;
  dispatch(x.dtype, [&]<typename T>() {
    using C = Compute<T>;
    const Passes passes{device, sizes, in_packs<T>(sizes, {y.data, x.data})};
    const Inputs<T, 1> in{{x.ptr<T>()}};
    const bool some = numel(sizes) > 0;
    const int64_t splits = training && some ? passes.splits<T>() : 0;
    const Workspace<Moments> sums(splits * sizes.channels);
    const Workspace<Terms<C>> terms(sizes.channels);
    if (splits > 0) passes.reduce(MomentReduction(), sums.data(), in, Parameter<T>(nullptr));
    const ForwardChannels<T> channels{mean.ptr<C>(),
                                      rstd.ptr<C>(),
                                      Parameter<T>(running_mean),
                                      Parameter<T>(running_var),
                                      Parameter<T>(weight),
                                      Parameter<T>(bias),
                                      momentum,
                                      eps};
    launch(device, channels_grid(sizes.channels), forward_terms_kernel<T>, terms.data(),
           training ? sums.data() : nullptr, channels, sizes.channels, splits);
    if (some) passes.map(Normalise(), y.ptr<T>(), in, terms.data());
  });
}

void BatchNorm::backward(const Tensor* dx, const Tensor* dweight, const Tensor* dbias,
                         const Tensor& dy, const Tensor& x, const Tensor* weight,
                         const Tensor& mean, const Tensor& rstd, BatchNormSizes sizes,
                         bool training) const {
  if (sizes.channels == 0) return;
  dispatch(x.dtype, [&]<typename T>() {
    using C = Compute<T>;
    const Passes passes{device, sizes,
                        in_packs<T>(sizes, {ptr_or_null<void>(dx), dy.data, x.data})};
    const Inputs<T, 2> in{{dy.ptr<T>(), x.ptr<T>()}};
    const bool some = numel(sizes) > 0;
    const int64_t splits = some && (training || dweight || dbias) ? passes.splits<T>() : 0;
    const Workspace<GradientSums> sums(splits * sizes.channels);
    const Workspace<Terms<C>> terms(sizes.channels);
    if (splits > 0) passes.reduce(GradientReduction(), sums.data(), in, Parameter<T>(mean));
    const BackwardChannels<T> channels{Parameter<T>(dweight),
                                       Parameter<T>(dbias),
                                       Parameter<T>(weight),
                                       Parameter<T>(mean),
                                       Parameter<T>(rstd),
                                       static_cast<double>(sizes.batch * sizes.inner),
                                       training};
    launch(device, channels_grid(sizes.channels), backward_terms_kernel<T>, terms.data(),
           sums.data(), channels, sizes.channels, splits);
    if (!dx || !some) return;
    if (training) {
      passes.map(TrainingGradient(), dx->ptr<T>(), in, terms.data());
    } else {
      passes.map(Normalise(), dx->ptr<T>(), Inputs<T, 1>{{dy.ptr<T>()}}, terms.data());
    }
  });
}

}  // namespace fastdl::cuda
