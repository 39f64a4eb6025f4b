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

  // The pack of each that begins at `offset`.
  template <int N>
  __device__ void load(Pack<T, N> (&packs)[I], int64_t offset) const {
#pragma unroll
    for (int k = 0; k < I; ++k) packs[k] = *reinterpret_cast<const Pack<T, N>*>(in[k] + offset);
  }
  bool aligned() const {
    return std::all_of(in, in + I, [](const T* p) { return is_aligned(p); });
  }
};

// Elements of each input that a thread holds, in packs of N: in 16 registers at most.
template <typename T, int N>
constexpr int kShare = N == 1 || sizeof(T) == 8 ? 8 : 16;

// The packs begin, begin + step, .. of the `size` elements of a slice; neighbours lie `stride`
// apart, from `offset` on. They come kPacks at a time, all on the way together. With kOnce there
// are no more of them, and they are read once; otherwise every pass over them reads them again.
template <int N, bool kOnce, typename T, int I>
struct SlicePart {
  static constexpr int kElements = kShare<T, N>;  // of a chunk
  static constexpr int kPacks = kElements / N;
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
      Element<Compute<T>, I> elements[kElements];
      int count = 0;
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (j * step < left) count = (j + 1) * N;
        widen_pack(elements + j * N, held[j], i + j * step);
      }
      if (count == kElements) {
        f(elements, kElements);
      } else {
        f(elements, count);
      }
      i += kPacks * step;
    } while (!kOnce && i < size);
  }

  // f(elements of a pack, their results) for y.
  template <typename F>
  __device__ void map_packs(T* y, F&& f) {
    int64_t i = begin;
    do {
      const int left = left_from(i);
      if constexpr (!kOnce) load(i, left);
#pragma unroll
      for (int j = 0; j < kPacks; ++j) {
        if (j * step >= left) break;
        Element<Compute<T>, I> elements[N];
        widen_pack(elements, held[j], i + j * step);
        Compute<T> results[N];
        f(elements, results);
        Pack<T, N> pack;
#pragma unroll
        for (int k = 0; k < N; ++k) pack.values[k] = narrow<T>(results[k]);
        *reinterpret_cast<Pack<T, N>*>(y + offset + (i + j * step) * stride) = pack;
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
  __device__ static void widen_pack(Element<Compute<T>, I>* elements, const Pack<T, N> (&packs)[I],
                                    int64_t at) {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      elements[k].at = at + k;
#pragma unroll
      for (int l = 0; l < I; ++l) elements[k].in[l] = widen(packs[l].values[k]);
    }
  }
  __device__ void load(int64_t i, int left) {
#pragma unroll
    for (int j = 0; j < kPacks; ++j) {
      if (j * step < left) x.load(held[j], offset + (i + j * step) * stride);
    }
  }
};

}  // namespace fastdl::cuda
