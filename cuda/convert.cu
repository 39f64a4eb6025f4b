// 16-bit arrays widened to float32, and float32 ones rounded. Bound by memory.
#include "cuda/convert.h"

#include "cuda/elementwise.h"
#include "cuda/tensor_list.h"

namespace fastdl::cuda {
namespace {

struct Identity {
  __device__ float operator()(float x) const { return x; }
};

struct Rounding {
  __device__ static bool reads(int array) { return array == 1; }
  __device__ static bool writes(int array) { return array == 0; }
  struct Scalars {};

  __device__ void operator()(float (&x)[2], const Scalars&) const { x[0] = x[1]; }
};

}  // namespace

void Convert::widen(float* y, const Tensor& x) const {
  if (x.dtype == DType::bfloat16) {
    map(device, y, x.numel(), Identity(), x.ptr<const bfloat16>());
  } else {
    map(device, y, x.numel(), Identity(), x.ptr<const float16>());
  }
}

void Convert::narrow(const TensorList& to, const TensorList& from) const {
  const TensorList* const lists[] = {&to, &from};
  run_list<float>(device, Rounding(), lists, std::vector<Rounding::Scalars>(to.size()));
}

}  // namespace fastdl::cuda
