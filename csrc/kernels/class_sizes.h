#pragma once

#include <cstdint>

namespace fastdl {

// x of a classification loss is (outer, classes, inner), C-contiguous, and has outer * inner
// samples.
struct ClassSizes {
  int64_t outer, classes, inner;
};

// What becomes of the samples' losses.
enum class Reduction { none, mean, sum };

}  // namespace fastdl
