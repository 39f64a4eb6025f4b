#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <exception>

#include "core/check.h"

namespace fastdl {
namespace {

// libgomp's pool does not survive fork(): a region opened in the child would wait for ever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int atfork_registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

}  // namespace

int get_num_threads() { return forked.load(std::memory_order_relaxed) ? 1 : omp_get_max_threads(); }

void set_num_threads(int n) {
  check(n >= 1, "set_num_threads", "expected at least 1 thread, got ", n);
  omp_set_num_threads(n);
}

void parallel_run(int64_t blocks, void (*body)(void*, int64_t), void* context) {
  const int threads = get_num_threads();
  if (threads == 1 || blocks <= 1 || omp_in_parallel()) {
    for (int64_t block = 0; block < blocks; ++block) body(context, block);
    return;
  }
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t block = 0; block < blocks; ++block) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      body(context, block);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace fastdl
