#pragma once

#include "bindings/pair.h"
#include "ops/pool_windows.h"

namespace fastdl::bindings {

// A stride of None or () is the kernel's size.
inline ops::PoolOptions pool_options(const char* op, py::handle kernel_size, py::handle stride,
                                     py::handle padding, bool ceil_mode) {
  ops::PoolOptions options;
  options.kernel_size = to_pair(op, "kernel_size", kernel_size);
  const bool given = !stride.is_none() &&
                     (is_int(stride) || to_sequence(op, "stride", kIntOrPair, stride).size() > 0);
  options.stride = given ? to_pair(op, "stride", stride) : options.kernel_size;
  options.padding = to_pair(op, "padding", padding);
  options.ceil_mode = ceil_mode;
  return options;
}

// An int, or a pair where None keeps the size of x.
inline ops::AdaptiveSize adaptive_size(const char* op, py::handle value) {
  constexpr const char* kExpected = "an int or a pair of ints or None";
  if (is_int(value)) {
    const int64_t both = to_int(op, "output_size", kExpected, value);
    return {both, both};
  }
  const py::sequence sizes = to_sequence(op, "output_size", kExpected, value);
  check(sizes.size() == 2, op, "output_size must be ", kExpected, ", got ", sizes.size(),
        " values");
  ops::AdaptiveSize result;
  for (size_t i = 0; i < 2; ++i) {
    const py::object size = sizes[i];
    if (!size.is_none()) result[i] = to_int(op, "output_size", kExpected, size);
  }
  return result;
}

}  // namespace fastdl::bindings
