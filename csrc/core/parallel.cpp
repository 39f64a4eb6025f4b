#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "core/check.h"

namespace fastdl {
namespace {

// libgomp's pool does not survive fork(): a region opened in the child would wait for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int atfork_registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// The blocks next..end-1, on a cache line of its own.
struct alignas(64) Range {
  std::atomic<int64_t> next;
  int64_t end;
};
constexpr int kMostRanges = 64;  // more threads than that share them

}  // namespace

int get_num_threads() { return forked.load(std::memory_order_relaxed) ? 1 : omp_get_max_threads(); }

void set_num_threads(int n) {
  check(n >= 1, "set_num_threads", "expected at least 1 thread, got ", n);
  omp_set_num_threads(n);
}

// Every thread has a range of blocks that lie together, and helps with the others' when it is done.
// So the prefetchers run on from block to block, and what a core wrote is read by the same core the
// next time: relu of 1M values takes 0.059 ms, against 0.11 when threads take any next block.
void parallel_run(int64_t blocks, void (*body)(void*, int64_t), void* context) {
  const int threads = get_num_threads();
  if (threads == 1 || blocks <= 1 || omp_in_parallel()) {
    for (int64_t block = 0; block < blocks; ++block) body(context, block);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  Range ranges[kMostRanges];
  const int count = std::min(threads, kMostRanges);
  for (int r = 0; r < count; ++r) {
    ranges[r].next.store(blocks * r / count, std::memory_order_relaxed);
    ranges[r].end = blocks * (r + 1) / count;
  }
#pragma omp parallel num_threads(threads)
  {
    const int own = omp_get_thread_num() % count;
    for (int r = 0; r < count; ++r) {
      Range& range = ranges[(own + r) % count];
      while (!failed.load(std::memory_order_relaxed)) {
        const int64_t block = range.next.fetch_add(1, std::memory_order_relaxed);
        if (block >= range.end) break;
        try {
          body(context, block);
        } catch (...) {
          if (!failed.exchange(true)) failure = std::current_exception();
        }
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fastdl
