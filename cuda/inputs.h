// Arrays that a kernel reads side by side, and the part of a slice that a thread works on.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

// An element of each input, and its index along the slice.
template <typename C, int I>
struct Element {
  C in[I];
  int64_t at;
};

template <typename T, int I>
struct Inputs {
  const T* in[I];

  template <int N>
  __device__ void load(Pack<T, N> (&packs)[I], int64_t offset) const {
#pragma unroll
    for (int k = 0; k < I; ++k) packs[k] = *reinterpret_cast<const Pack<T, N>*>(in[k] + offset);
  }
  bool aligned() const {
    return std::all_of(in, in + I, [](const T* p) { return is_aligned(p); });
  }
};

// Elements of each input that a thread holds: in 16 registers, mostly.
template <typename T>
constexpr int kShare = sizeof(T) == 8 ? 8 : 16;

// The packs begin, begin + step, .. of the `size` elements of a slice; neighbours lie `stride`
// apart, from `offset` on. They come kPacks at a time, all on the way together. With kOnce there
// are no more of them, and they are read once; otherwise every pass over them reads them again.
template <int N, int kPacks, bool kOnce, typename T, int I>
struct SlicePart {
  Inputs<T, I> x;
  int64_t offset, begin, size, stride;
  int step;
  Pack<T, N> held[kPacks][I];

  __device__ SlicePart(const Inputs<T, I>& x, int64_t offset, int64_t begin, int step, int64_t size,
                       int64_t stride)
      : x(x), offset(offset), begin(begin), size(size), stride(stride), step(step) {}

  // f(elements, how many of them there are), in a pass that kReads or finds them held.
  template <bool kReads = !kOnce, typename F>
  __device__ void for_each_chunk(F&& f) {
    int64_t i = begin;
    do {
      const int left = left_from(i);
      if constexpr (kReads) load(i, left);
      Element<Compute<T>, I> elements[kPacks * N];
      int count = 0;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (j * step < left) count = (j + 1) * N;
#pragma unroll
        for (int k = 0; k < N; ++k) {
          Element<Compute<T>, I>& e = elements[j * N + k];
          e.at = i + j * step + k;
#pragma unroll
          for (int l = 0; l < I; ++l) e.in[l] = widen(held[j][l].values[k]);
        }
      }
      if (count == kPacks * N) {
        f(elements, kPacks * N);
      } else {
        f(elements, count);
      }
      i += kPacks * step;
    } while (!kOnce && i < size);
  }

  // y[element] = f(element)
  template <typename F>
  __device__ void map(T* y, F&& f) {
    int64_t i = begin;
    do {
      const int left = left_from(i);
      if constexpr (!kOnce) load(i, left);
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (j * step >= left) break;
        Pack<T, N> result;
#pragma unroll
        for (int k = 0; k < N; ++k) {
          Element<Compute<T>, I> e;
          e.at = i + j * step + k;
#pragma unroll
          for (int l = 0; l < I; ++l) e.in[l] = widen(held[j][l].values[k]);
          result.values[k] = narrow<T>(f(e));
        }
        *reinterpret_cast<Pack<T, N>*>(y + offset + (i + j * step) * stride) = result;
      }
      i += kPacks * step;
    } while (!kOnce && i < size);
  }

 private:
  // Elements of a chunk and behind it that there are.
  __device__ int left_from(int64_t i) const {
    const int64_t left = size - i, most = kPacks * step;
    return static_cast<int>(left < most ? left : most);
  }
  __device__ void load(int64_t i, int left) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (j * step < left) x.load(held[j], offset + (i + j * step) * stride);
    }
  }
};

}  // namespace fastdl::cuda
