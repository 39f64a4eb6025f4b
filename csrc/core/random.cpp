#include "core/random.h"

#include <pthread.h>

#include <cmath>
#include <mutex>
#include <random>

#include "core/check.h"

namespace fastdl {
namespace {

struct Generator {
  std::mutex mutex;
  RngState state;
};

uint64_t entropy() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

// Never destroyed, like the buffer pool; a forked child goes on from its parent's state.
Generator& generator() {
  static Generator* instance = [] {
    pthread_atfork([] { generator().mutex.lock(); }, [] { generator().mutex.unlock(); },
                   [] { generator().mutex.unlock(); });
    return new Generator{{}, {entropy(), 0}};
  }();
  return *instance;
}

}  // namespace

RngState get_rng_state() {
  const std::lock_guard lock(generator().mutex);
  return generator().state;
}

void set_rng_state(RngState state) {
  const std::lock_guard lock(generator().mutex);
  generator().state = state;
}

RngState reserve_random_words(int64_t n) {
  const std::lock_guard lock(generator().mutex);
  const RngState state = generator().state;
  generator().state.offset += (static_cast<uint64_t>(n) + 3) / 4;
  return state;
}

Dropout make_dropout(const char* op, double p, RngState rng) {
  check(0 <= p && p <= 1, op, "the probability of dropout must be between 0 and 1, got ", p);
  const double threshold = std::nearbyint(p * 0x1p32);
  if (threshold == 0x1p32) return {rng, 0, 0};  // no word reaches it: everything gets 0
  return {rng, static_cast<uint32_t>(threshold), 1 / (1 - p)};
}

}  // namespace fastdl
