// What the bindings need of CUDA.
#pragma once

namespace fastdl::cuda {

// Makes a device the current one of this thread, as launches need it; returns the one before.
int exchange_device(int index);

}  // namespace fastdl::cuda
