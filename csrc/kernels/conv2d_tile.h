// The register tile of the direct convolutions, and the transposition between what it works on and
// planes of channels.
//
//   sums[place[i], :] (+)= sum_k data[from[i] + offsets[k]] * rows[k, :]
//
// Elements of data are broadcast from wherever they lie, so nothing is packed but the rows: data is
// an image, and rows the weights of some output channels at each tap; or rows are pixels of some
// channels of dy, and data gives for each tap what it read at each pixel.
#pragma once

#include "core/transposed.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {

// 14 x 2 sums, 2 of the row and one element fill 31 of 32 registers, 6 x 2 make 15 of 16.
template <typename T>
struct DirectTile {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int elements = kVecRegisters == 32 ? 14 : 6;
  static constexpr int vectors = 2;
  static constexpr int width = vectors * lanes;
};

// The elements of a tile, DirectTile<T>::elements each.
template <typename T>
struct TileElements {
  const int64_t *from, *place;
};

// On AVX-512 (Zen 5), 94 % of the peak with two vectors, 65 % with one: it loads twice an FMA.
template <typename T, int Vectors>
__attribute__((noinline)) void direct_tile(T* sums, bool add, const T* data, TileElements<T> tile,
                                           const T* rows, const int64_t* offsets, int64_t depth) {
  constexpr int lanes = Vec<T>::lanes, elements = DirectTile<T>::elements;
  Vec<T> sum[elements][Vectors];
  const T* from[elements];
  T* to[elements];
#pragma GCC unroll 16
  for (int i = 0; i < elements; ++i) {
    from[i] = data + tile.from[i];
    to[i] = sums + tile.place[i] * Vectors * lanes;
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) sum[i][j] = zero<T>();
  }
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[Vectors];
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) row[j] = load(rows + (k * Vectors + j) * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < elements; ++i) {
      const Vec<T> element = broadcast(from[i][offsets[k]]);
#pragma GCC unroll 2
      for (int j = 0; j < Vectors; ++j) sum[i][j] = fma(element, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < elements; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < Vectors; ++j) {
      if (add) sum[i][j] = load(to[i] + j * lanes) + sum[i][j];
      store(to[i] + j * lanes, sum[i][j]);
    }
  }
}

// The vectors that `channels` of them take, at most those of a tile.
template <typename T>
FASTDL_INLINE int tile_vectors(int64_t channels) {
  return channels > Vec<T>::lanes ? 2 : 1;
}

}  // namespace fastdl::FASTDL_ISA
