// The parameters and statistics of a normalisation: of the dtype T of x, or float32 beside 16 bits.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

template <typename T>
class Parameter {
 public:
  // Null: absent.
  explicit Parameter(const Tensor* tensor)
      : data_(ptr_or_null<void>(tensor)),
        wide_(tensor != nullptr && tensor->dtype == dtype_of<Compute<T>>) {}
  explicit Parameter(const Tensor& tensor) : Parameter(&tensor) {}

  __device__ explicit operator bool() const { return data_ != nullptr; }

  // `absent` where there is none.
  __device__ Compute<T> load(int64_t i, Compute<T> absent = 0) const {
    if (!data_) return absent;
    return wide_ ? static_cast<const Compute<T>*>(data_)[i]
                 : widen(static_cast<const T*>(data_)[i]);
  }
  // N of them from i on, where the array is aligned and i a multiple of N.
  template <int N>
  __device__ void load(Compute<T> (&values)[N], int64_t i, Compute<T> absent) const {
    if (!data_) {
#pragma unroll
      for (Compute<T>& value : values) value = absent;
    } else if (wide_) {
      load_as<Compute<T>>(values, i);
    } else {
      load_as<T>(values, i);
    }
  }
  __device__ void store(int64_t i, Compute<T> value) const {
    if (wide_) {
      static_cast<Compute<T>*>(data_)[i] = value;
    } else {
      static_cast<T*>(data_)[i] = narrow<T>(value);
    }
  }

  bool aligned() const { return is_aligned(data_); }

 private:
  template <typename P, int N>
  __device__ void load_as(Compute<T> (&values)[N], int64_t i) const {
    constexpr int M = N < kPackSize<P> ? N : kPackSize<P>;
#pragma unroll
    for (int k = 0; k < N; k += M) {
      const auto pack = *reinterpret_cast<const Pack<P, M>*>(static_cast<const P*>(data_) + i + k);
#pragma unroll
      for (int l = 0; l < M; ++l) values[k + l] = widen(pack.values[l]);
    }
  }

  void* data_;
  bool wide_;
};

}  // namespace fastdl::cuda
