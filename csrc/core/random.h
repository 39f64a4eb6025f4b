// The random numbers of the process: what the next op that needs some will take.
//
// The random word of element i is a function of (seed, offset, i) alone (core/philox.h), so an op
// takes a stretch of counters here and the state it got is all its backward needs.
#pragma once

#include <cstdint>

namespace fastdl {

struct RngState {
  uint64_t seed, offset;
  const int64_t* device_seed = nullptr;  // lies on a GPU, in place of seed
};

RngState get_rng_state();
void set_rng_state(RngState state);
// The state for an op that needs `n` random words; the next op's starts after them.
RngState reserve_random_words(int64_t n);

// A dropout by the random words of `rng`: element i gets the factor `scale` if its word reaches the
// threshold, else 0.
struct Dropout {
  RngState rng;
  uint32_t threshold;
  double scale;
};

Dropout make_dropout(const char* op, double p, RngState rng);  // checks 0 <= p <= 1

}  // namespace fastdl
