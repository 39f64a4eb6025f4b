// AMX: eight tiles of 16 rows of 64 bytes, and products of bfloat16 on them. Inline assembly, as
// the assembler needs no flags for it and the compiler then knows that tiles read memory.
//
// multiply_tiles<C, A, B>() adds to the 16 x 16 floats of tile C the products of A (16 rows of 32
// bfloat16) and B (16 rows of 16 pairs: terms 2 i and 2 i + 1 of a column): 8192 products in 16
// cycles, where a fused multiply-add of AVX-512 does 16 in half a cycle. Denormals count as zero.
#pragma once

#include <cstdint>

#include "core/isa.h"

namespace fastdl::FASTDL_ISA {

constexpr int kTileRows = 16, kTilePairs = 16;
constexpr int64_t kTileBytes = 1024;

// While it lives, this thread has its tiles, all of full size.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int Tile>
FASTDL_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
}

// Rows `stride` bytes apart.
template <int Tile>
FASTDL_INLINE void load_tile(const void* from, int64_t stride = 64) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(Tile), "r"(from), "r"(stride) : "memory");
}

template <int Tile>
FASTDL_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(Tile), "r"(to), "r"(stride) : "memory");
}

template <int C, int A, int B>
FASTDL_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace fastdl::FASTDL_ISA
