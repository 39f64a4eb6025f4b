// Memory for outputs and work space that is kept and used again.
//
// The first touch of a fresh 64 MB array costs about 10 ms of page faults, more than most kernels
// that fill it. So arrays come from here, return here when Python drops them, and wait for the
// next.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/isa.h"

namespace fastdl {

// At least `bytes` bytes, 64-byte aligned, from 2 MB on in huge pages. Throws std::bad_alloc.
void* pool_allocate(size_t bytes);
// Takes back what pool_allocate(bytes) gave.
void pool_release(void* buffer, size_t bytes) noexcept;

// What may lie in the pool unused; 0 turns the pool off. Frees what exceeds the new limit.
void set_buffer_pool_limit(size_t bytes);
size_t get_buffer_pool_limit();
size_t buffer_pool_size();  // bytes that lie in the pool unused now

// Scratch memory of a kernel, for `count` values of T.
template <typename T>
class Workspace {
 public:
  FASTDL_INLINE explicit Workspace(int64_t count)
      : bytes_(static_cast<size_t>(count) * sizeof(T)),
        data_(static_cast<T*>(pool_allocate(bytes_))) {}
  FASTDL_INLINE ~Workspace() { pool_release(data_, bytes_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  FASTDL_INLINE T* data() const { return data_; }

 private:
  size_t bytes_;
  T* data_;
};

// How many values to ask for if they are read again and again: memory of 256 KB and more then lies
// in a huge page, as many small ones take most of the TLB. Products of matrices gain 1 to 2 % by
// that, those on tiles 10 to 25 %, Winograd's convolutions 0 to 9 %.
template <typename T = char>
FASTDL_INLINE int64_t in_huge_page(int64_t count) {
  constexpr int64_t page = (int64_t{2} << 20) / int64_t{sizeof(T)};
  return count > page / 8 && count < page ? page : count;
}

}  // namespace fastdl
