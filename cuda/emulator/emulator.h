// CUDA's language for the host's compiler: what the kernels of cuda/ use of it, no more.
//
// A block's threads are fibers of one thread of the host. They run one after another, each until
// it waits for others: at a barrier, or in an exchange between the lanes of a warp. One launch runs
// at a time, so __shared__ variables are static ones.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace fastdl::emulator {

inline dim3 thread_index, block_index, block_size, grid_size;

// Runs kernel() once for every thread of the grid. Throws std::logic_error if threads wait for each
// other for ever. Dynamic shared memory starts as NaN.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);
void* dynamic_shared();
void sync_block();
void sync_warp();
// All lanes of the warp deposit `bytes` bytes (at most 64); returns those of lane 0, behind which
// lie the others', until the next but one exchange.
const void* exchange(const void* value, size_t bytes);
bool lane_is_live(int lane);  // has not returned from the kernel

// cp.async of the running thread: `size` of `bytes` bytes, and zeros. The copy is made when it is
// waited for; until then NaN is there.
void copy_async(void* to, const void* from, int bytes, int size);
void copy_commit();
void copy_wait(int pending);
// Ends the process if the kernel asks for what the hardware would trap at.
void require(bool condition, const char* what);

template <typename T>
const T* exchange(const T& value) {
  return static_cast<const T*>(exchange(&value, sizeof(T)));
}
inline int lane() {
  return static_cast<int>(
      (thread_index.x + block_size.x * (thread_index.y + block_size.y * thread_index.z)) % 32);
}

}  // namespace fastdl::emulator

using std::max;
using std::min;

#define threadIdx (::fastdl::emulator::thread_index)
#define blockIdx (::fastdl::emulator::block_index)
#define blockDim (::fastdl::emulator::block_size)
#define gridDim (::fastdl::emulator::grid_size)

inline void __syncthreads() { fastdl::emulator::sync_block(); }
inline void __syncwarp(unsigned = ~0u) { fastdl::emulator::sync_warp(); }

// The masks are those of all lanes.
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  const int from = fastdl::emulator::lane() ^ mask;
  return fastdl::emulator::exchange(value)[from];
}
inline int __any_sync(unsigned, int predicate) {
  const int* const all = fastdl::emulator::exchange(predicate);
  bool any = false;
  for (int i = 0; i < 32; ++i) any |= fastdl::emulator::lane_is_live(i) && all[i] != 0;
  return any;
}
template <typename T>
unsigned __match_any_sync(unsigned, T value) {
  const T* const all = fastdl::emulator::exchange(value);
  unsigned same = 0;
  for (int i = 0; i < 32; ++i) {
    same |= (fastdl::emulator::lane_is_live(i) && all[i] == value ? 1u : 0u) << i;
  }
  return same;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}
