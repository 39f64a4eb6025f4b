// The 16-bit floating types: storage alone. Kernels load them as float and round once, when they
// store (load and store of vec.h).
#pragma once

#include <cstdint>

namespace fastdl {

struct bfloat16 {  // the upper half of a float: its range, 8 significant bits
  uint16_t bits;
};
struct float16 {  // IEEE binary16: 11 significant bits, to 65504 at most, denormal below 6.1e-5
  uint16_t bits;
};

}  // namespace fastdl
