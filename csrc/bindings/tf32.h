// Whether products of float32 arrays on a device may round their factors to TF32: what the library
// of the arrays says at the time of the call.
#pragma once

#include "bindings/array.h"

namespace fastdl::bindings {

// `products` is "matmul" or "conv". False for libraries that follow_tf32 was not called for.
bool allows_tf32(Library library, const char* products);

}  // namespace fastdl::bindings
