// The matrix instructions of sm_80 and later, and the copies that feed them, by the fragment
// layouts of the PTX manual ("Matrix fragments for mma.m16n8k16"). Of lane 4 g + t, g and g + 8
// being its rows, each register holding two 16-bit elements, the one of the lower column first:
//
//   A (16, 16)  a[0] = (g, 2t), a[1] = (g + 8, 2t), a[2] = (g, 2t + 8), a[3] = (g + 8, 2t + 8)
//   B (16, 8)   b0 = (2t, g), b1 = (2t + 8, g): pairs along k
//   C (16, 8)   c[0], c[1] = (g, 2t), (g, 2t + 1); c[2], c[3] = (g + 8, 2t), (g + 8, 2t + 1)
//
// so C's two halves, rounded to 16 bits, are the A of a next product. Where the elements are tf32,
// a register holds one:
//
//   A (16, 8)   a[0] = (g, t), a[1] = (g + 8, t), a[2] = (g, t + 4), a[3] = (g + 8, t + 4)
//   B (8, 8)    b0 = (t, g), b1 = (t + 4, g)
#pragma once

#include "cuda/numbers.h"

#ifdef FASTDL_EMULATE_CUDA
#include "cuda/emulator/mma.h"
#else

namespace fastdl::cuda {

// Shared memory by its own addresses: one register, and constants beside it cost nothing.
using SharedAddress = unsigned;
__device__ inline SharedAddress shared_address(const void* p) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(p));
}

// c += a b. T is bfloat16 or float16.
template <typename T>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                            unsigned b1) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, float16>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// Of the elements' bits the instruction takes the upper 19: round_tf32 rounds them to nearest.
__device__ __forceinline__ void mma_16x8x8_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0,
                                                unsigned b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned round_tf32(float x) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

// Four matrices of 8 rows of 16 bytes, in shared memory: lane l gives row l % 8 of matrix l / 8.
// r[i] is the lane's pair of matrix i: row g, columns 2t and 2t + 1; transposed: column g, rows 2t
// and 2t + 1.
__device__ __forceinline__ void load_matrix_x4(unsigned (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(unsigned (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// Copies kBytes = 4, 8 or 16, of which those beyond the first `bytes` become 0 without being read.
// Both addresses are multiples of kBytes. A thread sees what it copied after copy_wait, the others
// after a barrier behind it.
template <int kBytes = 16>
__device__ __forceinline__ void copy_async(SharedAddress shared, const void* global,
                                           int bytes = kBytes) {
  if constexpr (kBytes == 16) {  // past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(global),
                 "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}
// The same by pointers.
__device__ inline void load_matrix_x4(unsigned (&r)[4], const void* row) {
  load_matrix_x4(r, shared_address(row));
}
__device__ inline void load_matrix_x4_transposed(unsigned (&r)[4], const void* row) {
  load_matrix_x4_transposed(r, shared_address(row));
}
template <int kBytes = 16>
__device__ inline void copy_async(void* shared, const void* global, int bytes = kBytes) {
  copy_async<kBytes>(shared_address(shared), global, bytes);
}

// Closes a group of copies.
__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all groups of this thread but the last kPending are there.
template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Two numbers as a register of a fragment, each rounded to nearest.
template <typename T>
__device__ __forceinline__ unsigned pack_pair(float low, float high) {
  unsigned pair;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  } else {
    static_assert(std::is_same_v<T, float16>);
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  }
  return pair;
}

// threadIdx.x, whose dependents the compiler cannot compute before a loop and keep in registers.
__device__ __forceinline__ int thread_index_anew() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// 2^x; results below the normal numbers are 0.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fastdl::cuda

#endif
