#include "core/buffer_pool.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace fastdl {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// An eighth of the machine's memory: a training step whose results take more waits for new pages.
// ResNet-50 on 16 images takes 1.7 GiB: 1.94 s with a limit of 1 GiB, 1.48 with 8.
size_t default_limit() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
  const size_t known = pages > 0 && page_size > 0 ? static_cast<size_t>(pages) : 0;
  return std::max(known / 8 * static_cast<size_t>(page_size), size_t{1} << 30);
}

// A large buffer may be used for half its size. What the layers of a network hold and leave in the
// pool, MB, with exact sizes, twice and four times as much: ResNet-50's inference 204, 145, 152,
// optimized 229, 183, 192, MobileNetV2's 209, 168, 146, ResNet-50's training 1005, 972, 992.
constexpr size_t kMaxRatio = 2;

// Sizes are rounded up to 4 steps per power of two: at most 25 % is wasted, and nearby sizes share.
size_t size_class(size_t bytes) {
  if (bytes <= kAlignment) return kAlignment;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t step = std::max(std::bit_floor(bytes - 1) / 4, kAlignment);
  return (bytes + step - 1) / step * step;
}

// Large buffers come from the system itself: what malloc hands out again has the small pages of its
// last owner, and stays so. ResNet-50's step after PyTorch's: 1100 to 1300 ms, so 870.
void* take(size_t size) {
  if (size < kHugePage) {
    void* buffer = nullptr;
    if (posix_memalign(&buffer, kAlignment, size) != 0) throw std::bad_alloc();
    return buffer;
  }
  const size_t mapped = size + kHugePage;
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(memory);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) % kHugePage;
  char* const buffer = begin + before;
  if (before > 0) munmap(begin, before);
  munmap(buffer + size, kHugePage - before);
  madvise(buffer, size, MADV_HUGEPAGE);
  return buffer;
}

void give_back(void* buffer, size_t size) noexcept {
  if (size < kHugePage) {
    std::free(buffer);
  } else {
    munmap(buffer, size);
  }
}

class BufferPool {
 public:
  void* allocate(size_t bytes) {
    const size_t size = size_class(bytes);
    {
      const std::lock_guard lock(mutex_);
      const size_t largest = size < kHugePage ? size : kMaxRatio * size;
      for (auto it = free_.lower_bound(size); it != free_.end() && it->first <= largest; ++it) {
        if (it->second.empty()) continue;
        void* buffer = it->second.back();
        if (it->first > size) larger_[buffer] = it->first;
        it->second.pop_back();
        cached_ -= it->first;
        return buffer;
      }
    }
    return take(size);
  }

  void release(void* buffer, size_t bytes) noexcept {
    size_t size = size_class(bytes);
    try {
      const std::lock_guard lock(mutex_);
      if (const auto it = larger_.find(buffer); it != larger_.end()) {
        size = it->second;
        larger_.erase(it);
      }
      if (size <= limit_ && cached_ <= limit_ - size) {
        free_[size].push_back(buffer);
        cached_ += size;
        return;
      }
    } catch (const std::bad_alloc&) {  // no memory to remember the buffer by: let it go
    }
    give_back(buffer, size);
  }

  void set_limit(size_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
    for (auto it = free_.rbegin(); it != free_.rend() && cached_ > limit_; ++it) {
      while (!it->second.empty() && cached_ > limit_) {
        give_back(it->second.back(), it->first);
        it->second.pop_back();
        cached_ -= it->first;
      }
    }
  }

  size_t limit() {
    const std::lock_guard lock(mutex_);
    return limit_;
  }

  size_t cached() {
    const std::lock_guard lock(mutex_);
    return cached_;
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  std::map<void*, size_t> larger_;  // buffers in use that are larger than was asked for
  size_t cached_ = 0;
  size_t limit_ = default_limit();
};

// Never destroyed: arrays may outlive the end of main().
BufferPool& pool() {
  static BufferPool* instance = [] {
    // A fork while another thread holds the lock would leave it locked in the child.
    pthread_atfork([] { pool().lock(); }, [] { pool().unlock(); }, [] { pool().unlock(); });
    return new BufferPool;
  }();
  return *instance;
}

}  // namespace

void* pool_allocate(size_t bytes) { return pool().allocate(bytes); }
void pool_release(void* buffer, size_t bytes) noexcept { pool().release(buffer, bytes); }
void set_buffer_pool_limit(size_t bytes) { pool().set_limit(bytes); }
size_t get_buffer_pool_limit() { return pool().limit(); }
size_t buffer_pool_size() { return pool().cached(); }

}  // namespace fastdl
