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

}  // namespace fastdl
