// The functions of cuda/mma.h, lane by lane.
#pragma once

#include "cuda/numbers.h"

namespace fastdl::cuda {

namespace fragments {

template <typename T>
float half_of(unsigned pair, int which) {
  return widen(T{static_cast<uint16_t>(pair >> 16 * which)});
}

struct Operands {
  unsigned a[4], b[2];
};

// c += a b of one lane, k elements long: a_at(lanes, row, k) and b_at(lanes, k, column).
template <typename A, typename B>
void multiply(float (&c)[4], int k, A&& a_at, B&& b_at) {
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < k; ++j) c[i] += a_at(g + i / 2 * 8, j) * b_at(j, 2 * t + i % 2);
  }
}

}  // namespace fragments

template <typename T>
void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  using fragments::half_of;
  const auto* lanes = emulator::exchange(fragments::Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  fragments::multiply(
      c, 16,
      [=](int row, int k) {
        return half_of<T>(lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k % 2);
      },
      [=](int k, int column) { return half_of<T>(lanes[column * 4 + k % 8 / 2].b[k / 8], k % 2); });
}

inline void mma_16x8x8_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const auto* lanes = emulator::exchange(fragments::Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const auto number = [](unsigned bits) { return __uint_as_float(bits & ~0x1fffu); };
  fragments::multiply(
      c, 8,
      [=](int row, int k) { return number(lanes[row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2]); },
      [=](int k, int column) { return number(lanes[column * 4 + k % 4].b[k / 4]); });
}

inline unsigned round_tf32(float x) {
  const unsigned bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000) & ~0x1fffu;
}

using SharedAddress = uintptr_t;
inline SharedAddress shared_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

inline void load_matrix_x4(unsigned (&r)[4], SharedAddress address) {
  const void* const row = reinterpret_cast<const void*>(address);
  const void* const* rows = emulator::exchange(row);
  emulator::require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "ldmatrix: a row is misaligned");
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    memcpy(&r[i], static_cast<const uint16_t*>(rows[8 * i + g]) + 2 * t, sizeof r[i]);
  }
}
inline void load_matrix_x4_transposed(unsigned (&r)[4], SharedAddress address) {
  const void* const row = reinterpret_cast<const void*>(address);
  const void* const* rows = emulator::exchange(row);
  emulator::require(reinterpret_cast<uintptr_t>(row) % 16 == 0, "ldmatrix: a row is misaligned");
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const auto element = [&](int at) {
      return static_cast<unsigned>(static_cast<const uint16_t*>(rows[8 * i + at])[g]);
    };
    r[i] = element(2 * t) | element(2 * t + 1) << 16;
  }
}

template <int kBytes = 16>
void copy_async(SharedAddress address, const void* global, int bytes = kBytes) {
  void* const shared = reinterpret_cast<void*>(address);
  const bool aligned =
      (address % kBytes == 0) && (reinterpret_cast<uintptr_t>(global) % kBytes == 0);
  emulator::require(aligned, "cp.async: an address is misaligned");
  emulator::copy_async(shared, global, kBytes, bytes);
}
inline void load_matrix_x4(unsigned (&r)[4], const void* row) {
  load_matrix_x4(r, shared_address(row));
}
inline void load_matrix_x4_transposed(unsigned (&r)[4], const void* row) {
  load_matrix_x4_transposed(r, shared_address(row));
}
template <int kBytes = 16>
void copy_async(void* shared, const void* global, int bytes = kBytes) {
  copy_async<kBytes>(shared_address(shared), global, bytes);
}
inline void copy_commit() { emulator::copy_commit(); }
template <int kPending>
void copy_wait() {
  emulator::copy_wait(kPending);
}

template <typename T>
unsigned pack_pair(float low, float high) {
  return narrow<T>(low).bits | static_cast<unsigned>(narrow<T>(high).bits) << 16;
}

inline int thread_index_anew() { return static_cast<int>(threadIdx.x); }

inline float exp2_approximate(float x) { return exp2f(x); }

}  // namespace fastdl::cuda
