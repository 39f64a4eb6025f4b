// What this machine can do at most, measured: the roofline of explain() and the bench.
#pragma once

#include "core/tensor.h"

namespace fastdl::ops {

struct Peaks {
  double flops;  // multiply-adds of a dtype from registers, or tiles, counted as two, per second
  double bytes;  // of a triad through memory, per second
};

// With the ISA and the number of threads in force; takes about 0.2 s.
Peaks measure_peaks(DType dtype);

}  // namespace fastdl::ops
