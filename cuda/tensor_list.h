// One launch over many arrays of any sizes: the optimisers, and what rounds their masters.
//
// A table of the tensors is the kernel's argument. They are cut into chunks; a block finds the
// tensor of its chunk by bisection, as the CPU's blocks do (csrc/kernels/tensor_list.h). The arrays
// of a tensor may differ in dtype: 16 bytes of float32 are read beside 8 of a 16-bit one.
#pragma once

#include <vector>

#include "cuda/device_number.h"
#include "cuda/numbers.h"

namespace fastdl::cuda {

constexpr int kListThreads = 256;
constexpr int kListBlocks = 3;        // of a multiprocessor: 48 KB of loads in flight
constexpr int kListPack = 4;          // elements a thread loads at once
constexpr int kListChunk = 8192;      // elements of a block, at most
constexpr size_t kListBytes = 30000;  // of a table; a launch may have 32764 bytes of arguments

// A arrays of one length, and what a step needs to know of the tensor.
template <int A, typename Scalars>
struct ListItem {
  void* arrays[A];
  int64_t size;
  DType dtypes[A];
  bool aligned;
  Scalars scalars;
};

template <int A, typename Scalars>
struct TensorTable {
  using Item = ListItem<A, Scalars>;
  static constexpr int kMost = static_cast<int>(kListBytes / (sizeof(Item) + sizeof(unsigned)));

  int count = 0;
  unsigned chunks = 0;
  unsigned first_chunk[kMost];
  Item items[kMost];
};

__device__ inline float list_element(unsigned bits, DType dtype) {
  const auto half = static_cast<uint16_t>(bits);
  if (dtype == DType::bfloat16) return widen(bfloat16{half});
  return dtype == DType::float16 ? widen(float16{half}) : __uint_as_float(bits);
}
__device__ inline unsigned list_bits(float value, DType dtype) {
  if (dtype == DType::bfloat16) return narrow<bfloat16>(value).bits;
  return dtype == DType::float16 ? narrow<float16>(value).bits : __float_as_uint(value);
}

// kListPack neighbours of an array as they lie: to widen them is to wait for them, so the packs of
// all arrays are loaded before.
template <typename C>
struct ListPack {  // of float or 16-bit elements
  Pack<unsigned, kListPack> bits;

  __device__ void load(const void* array, DType dtype, int64_t pack) {
    if (dtype == DType::float32) {
      bits = static_cast<const Pack<unsigned, kListPack>*>(array)[pack];
    } else {
      const auto halves = static_cast<const Pack<unsigned, kListPack / 2>*>(array)[pack];
      bits.values[0] = halves.values[0];
      bits.values[1] = halves.values[1];
    }
  }
  __device__ C get(int k, DType dtype) const {
    if (dtype == DType::float32) return __uint_as_float(bits.values[k]);
    return list_element(bits.values[k / 2] >> (k % 2 * 16), dtype);
  }
  __device__ static void store(void* array, DType dtype, int64_t pack, const C (&x)[kListPack]) {
    Pack<unsigned, kListPack> to;
#pragma unroll
    for (int k = 0; k < kListPack; ++k) to.values[k] = list_bits(x[k], dtype);
    if (dtype == DType::float32) {
      static_cast<Pack<unsigned, kListPack>*>(array)[pack] = to;
    } else {
      static_cast<Pack<unsigned, kListPack / 2>*>(array)[pack] = {
          to.values[0] | to.values[1] << 16, to.values[2] | to.values[3] << 16};
    }
  }
  __device__ static C get_one(const void* array, DType dtype, int64_t i) {
    return dtype == DType::float32 ? static_cast<const float*>(array)[i]
                                   : list_element(static_cast<const uint16_t*>(array)[i], dtype);
  }
  __device__ static void store_one(void* array, DType dtype, int64_t i, C x) {
    if (dtype == DType::float32) {
      static_cast<float*>(array)[i] = x;
    } else {
      static_cast<uint16_t*>(array)[i] = static_cast<uint16_t>(list_bits(x, dtype));
    }
  }
};

template <>
struct ListPack<double> {
  using Pair = Pack<double, 2>;
  Pair pairs[2];

  __device__ void load(const void* array, DType, int64_t pack) {
    pairs[0] = static_cast<const Pair*>(array)[2 * pack];
    pairs[1] = static_cast<const Pair*>(array)[2 * pack + 1];
  }
  __device__ double get(int k, DType) const { return pairs[k / 2].values[k % 2]; }
  __device__ static void store(void* array, DType, int64_t pack, const double (&x)[kListPack]) {
    static_cast<Pair*>(array)[2 * pack] = {x[0], x[1]};
    static_cast<Pair*>(array)[2 * pack + 1] = {x[2], x[3]};
  }
  __device__ static double get_one(const void* array, DType, int64_t i) {
    return static_cast<const double*>(array)[i];
  }
  __device__ static void store_one(void* array, DType, int64_t i, double x) {
    static_cast<double*>(array)[i] = x;
  }
};

__device__ inline double get(const DeviceNumber& number) {
  return number.at ? *number.at : number.value;
}

__device__ inline bool found_inf(const GradScaling& scaling) {
  return scaling.found_inf && *scaling.found_inf != 0;
}

// step(x, scalars) changes the elements x[0..A-1] at one place of a tensor's arrays. Step::reads(a)
// and step.writes(a) tell which of them it needs and changes.
template <typename C, int A, typename Step>
__global__ void __launch_bounds__(kListThreads, kListBlocks)
    list_kernel(const __grid_constant__ TensorTable<A, typename Step::Scalars> table, Step step) {
  using Packs = ListPack<C>;
  int tensor = 0, last = table.count - 1;
  while (tensor < last) {
    const int middle = tensor + (last - tensor + 1) / 2;
    if (table.first_chunk[middle] <= blockIdx.x) {
      tensor = middle;
    } else {
      last = middle - 1;
    }
  }
  const auto& item = table.items[tensor];
  const int64_t begin = int64_t{blockIdx.x - table.first_chunk[tensor]} * kListChunk;
  const int64_t end = min(begin + kListChunk, item.size);
  const int64_t whole = item.aligned ? end / kListPack * kListPack : begin;
  for (int64_t i = begin / kListPack + threadIdx.x; i < whole / kListPack; i += kListThreads) {
    Packs packs[A];
    C x[A][kListPack];
#pragma unroll
    for (int a = 0; a < A; ++a) {
      if (Step::reads(a)) packs[a].load(item.arrays[a], item.dtypes[a], i);
    }
#pragma unroll
    for (int k = 0; k < kListPack; ++k) {
      C elements[A];
#pragma unroll
      for (int a = 0; a < A; ++a) {
        elements[a] = Step::reads(a) ? packs[a].get(k, item.dtypes[a]) : C{0};
      }
      step(elements, item.scalars);
#pragma unroll
      for (int a = 0; a < A; ++a) x[a][k] = elements[a];
    }
#pragma unroll
    for (int a = 0; a < A; ++a) {
      if (step.writes(a)) Packs::store(item.arrays[a], item.dtypes[a], i, x[a]);
    }
  }
  for (int64_t i = whole + threadIdx.x; i < end; i += kListThreads) {
    C elements[A];
#pragma unroll
    for (int a = 0; a < A; ++a) {
      elements[a] = Step::reads(a) ? Packs::get_one(item.arrays[a], item.dtypes[a], i) : C{0};
    }
    step(elements, item.scalars);
#pragma unroll
    for (int a = 0; a < A; ++a) {
      if (step.writes(a)) Packs::store_one(item.arrays[a], item.dtypes[a], i, elements[a]);
    }
  }
}

// list_kernel for the tensors i whose lists[0][i] is computed in C: lists of as many tensors each,
// and scalars of each tensor. One launch for as many tensors as a table holds, some 350.
template <typename C, int A, typename Step>
void run_list(const Device& device, const Step& step, const TensorList* const (&lists)[A],
              const std::vector<typename Step::Scalars>& scalars) {
  using Table = TensorTable<A, typename Step::Scalars>;
  Table table;
  const auto flush = [&] {
    if (table.count == 0) return;
    launch(device, {table.chunks, kListThreads}, list_kernel<C, A, Step>, table, step);
    table.count = 0;
    table.chunks = 0;
  };
  for (size_t i = 0; i < scalars.size(); ++i) {
    const Tensor& first = *(*lists[0])[i];
    if ((first.dtype == DType::float64) != std::is_same_v<C, double> || first.numel() == 0)
      continue;
    typename Table::Item item{{}, first.numel(), {}, true, scalars[i]};
    for (int a = 0; a < A; ++a) {
      const Tensor& tensor = *(*lists[a])[i];
      item.arrays[a] = tensor.data;
      item.dtypes[a] = tensor.dtype;
      item.aligned = item.aligned && is_aligned(tensor.data);
    }
    const int64_t chunks = ceil_div<int64_t>(item.size, kListChunk);
    if (table.count == Table::kMost || table.chunks + chunks > kMaxBlocks) flush();
    table.first_chunk[table.count] = table.chunks;
    table.items[table.count++] = item;
    table.chunks += static_cast<unsigned>(chunks);
  }
  flush();
}

}  // namespace fastdl::cuda
