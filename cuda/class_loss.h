// What nll_loss and cross_entropy share: class indices, the reduction of the samples' losses, and
// its gradient. Sums are made in double: of each block, then of the blocks in order.
#pragma once

#include "cuda/elementwise.h"
#include "cuda/reduce.h"
#include "kernels/class_sizes.h"

namespace fastdl::cuda {

constexpr int kLossThreads = 256;

template <typename C>
__device__ C not_a_number() {
  return infinity(C{}) - infinity(C{});
}

// The class indices of all samples, or null where there are probabilities.
template <typename T>
struct Targets {
  const int64_t* target;
  const T* weight;
  ClassSizes sizes;
  int64_t ignore_index;

  Targets(const Tensor& target, const Tensor* weight, ClassSizes sizes, int64_t ignore_index)
      : target(target.dtype == DType::int64 ? target.ptr<int64_t>() : nullptr),
        weight(ptr_or_null<T>(weight)),
        sizes(sizes),
        ignore_index(ignore_index) {}

  int64_t samples() const { return sizes.outer * sizes.inner; }
  // Of x: class c of sample s.
  __device__ int64_t element(int64_t s, int64_t c) const {
    return (s / sizes.inner * sizes.classes + c) * sizes.inner + s % sizes.inner;
  }
  __device__ bool is_class(int64_t t) const { return 0 <= t && t < sizes.classes; }
  __device__ Compute<T> class_weight(int64_t c) const { return weight ? widen(weight[c]) : 1; }
  // What sample s counts in the mean.
  __device__ Compute<T> share(int64_t s) const {
    if (!target) return sizes.classes > 0 ? Compute<T>{1} : not_a_number<Compute<T>>();
    const int64_t t = target[s];
    if (t == ignore_index) return 0;
    return is_class(t) ? class_weight(t) : not_a_number<Compute<T>>();
  }
};

// Where the losses of samples go: to the caller, or to be reduced.
template <typename T>
struct Losses {
  T* each;
  Compute<T>* computed;

  __device__ void store(int64_t s, Compute<T> loss) const {
    if (each) {
      each[s] = narrow<T>(loss);
    } else {
      computed[s] = loss;
    }
  }
};

// The gradient of the loss of sample s.
template <typename T>
struct LossGradient {
  const T* dy;
  int64_t step;            // 0: one for all
  const Compute<T>* mean;  // or null: dy divided by the sum of the shares

  __device__ Compute<T> operator()(int64_t s) const { return mean ? *mean : widen(dy[s * step]); }
};

struct LossSums {
  double loss, share;
};
__device__ inline LossSums merge(const LossSums& a, const LossSums& b) {
  return {a.loss + b.loss, a.share + b.share};
}

// losses may be null.
template <typename T>
__global__ void __launch_bounds__(kLossThreads)
    loss_sums_kernel(LossSums* sums, const Compute<T>* losses, Targets<T> targets, int64_t n) {
  LossSums sum{0, 0};
  const int64_t step = int64_t{gridDim.x} * kLossThreads;
#pragma unroll 4
  for (int64_t s = int64_t{blockIdx.x} * kLossThreads + threadIdx.x; s < n; s += step) {
    if (losses) sum.loss += static_cast<double>(losses[s]);
    sum.share += static_cast<double>(targets.share(s));
  }
  sum = row_reduce(sum, Merge(), LossSums{0, 0});
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__device__ inline LossSums sum_of_blocks(const LossSums* sums, int64_t blocks) {
  LossSums sum{0, 0};
  for (int64_t k = threadIdx.x; k < blocks; k += kLossThreads) sum = merge(sum, sums[k]);
  return row_reduce(sum, Merge(), LossSums{0, 0});
}

template <typename T>
__global__ void __launch_bounds__(kLossThreads)
    reduced_loss_kernel(T* loss, const LossSums* sums, int64_t blocks, bool mean) {
  const LossSums sum = sum_of_blocks(sums, blocks);
  if (threadIdx.x > 0) return;
  *loss = narrow<T>(static_cast<Compute<T>>(mean ? sum.loss / sum.share : sum.loss));
}

template <typename T>
__global__ void __launch_bounds__(kLossThreads)
    mean_gradient_kernel(Compute<T>* gradient, const T* dy, const LossSums* sums, int64_t blocks) {
  const LossSums sum = sum_of_blocks(sums, blocks);
  if (threadIdx.x > 0) return;
  *gradient = static_cast<Compute<T>>(static_cast<double>(widen(*dy)) / sum.share);
}

inline int64_t loss_blocks(int64_t samples) {
  return std::clamp<int64_t>(ceil_div<int64_t>(samples, 16 * kLossThreads), 1, 1024);
}

template <typename T>
void add_losses(const Device& device, LossSums* sums, const Compute<T>* losses,
                const Targets<T>& targets) {
  const int64_t n = targets.samples();
  launch(device, Grid{static_cast<unsigned>(loss_blocks(n)), kLossThreads}, loss_sums_kernel<T>,
         sums, losses, targets, n);
}

// Fills `loss` with what losses_of(Losses) makes.
template <typename T, typename LossesOf>
void reduce_losses(const Device& device, const Tensor& loss, Reduction reduction,
                   const Targets<T>& targets, LossesOf&& losses_of) {
  if (reduction == Reduction::none) return losses_of(Losses<T>{loss.ptr<T>(), nullptr});
  const int64_t n = targets.samples(), blocks = loss_blocks(n);
  const Workspace<Compute<T>> losses(n);
  const Workspace<LossSums> sums(blocks);
  losses_of(Losses<T>{nullptr, losses.data()});
  add_losses<T>(device, sums.data(), losses.data(), targets);
  launch(device, Grid{1, kLossThreads}, reduced_loss_kernel<T>, loss.ptr<T>(), sums.data(), blocks,
         reduction == Reduction::mean);
}

// Calls gradient_of(LossGradient).
template <typename T, typename GradientOf>
void with_loss_gradient(const Device& device, const Tensor& dy, Reduction reduction,
                        const Targets<T>& targets, GradientOf&& gradient_of) {
  if (reduction != Reduction::mean) {
    return gradient_of(LossGradient<T>{dy.ptr<T>(), reduction == Reduction::none ? 1 : 0, nullptr});
  }
  const int64_t blocks = loss_blocks(targets.samples());
  const Workspace<LossSums> sums(blocks);
  const Workspace<Compute<T>> mean(1);
  add_losses<T>(device, sums.data(), nullptr, targets);
  launch(device, Grid{1, kLossThreads}, mean_gradient_kernel<T>, mean.data(), dy.ptr<T>(),
         sums.data(), blocks);
  gradient_of(LossGradient<T>{dy.ptr<T>(), 0, mean.data()});
}

template <typename C>
struct Zero {
  __device__ C operator()() const { return 0; }
};

// f(s) for every sample.
template <typename F>
__global__ void __launch_bounds__(kLossThreads) each_sample_kernel(F f, int64_t n) {
  const int64_t step = int64_t{gridDim.x} * kLossThreads;
  for (int64_t s = int64_t{blockIdx.x} * kLossThreads + threadIdx.x; s < n; s += step) f(s);
}

template <typename F>
void for_each_sample(const Device& device, F f, int64_t n) {
  if (n == 0) return;
  const int64_t blocks = std::min(ceil_div<int64_t>(n, kLossThreads), kMaxBlocks);
  launch(device, Grid{static_cast<unsigned>(blocks), kLossThreads}, each_sample_kernel<F>, f, n);
}

}  // namespace fastdl::cuda
