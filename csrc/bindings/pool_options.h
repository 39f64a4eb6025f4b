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

}  // namespace fastdl::bindings
