// The CUDA device that an op's arrays lie on, while it runs. See docs/cuda.md.
#pragma once

#include "core/tensor.h"

namespace fastdl {

// Memory of the library the arrays come from: `owner` is what release() takes back.
struct DeviceMemory {
  void* data = nullptr;
  void* owner = nullptr;
};

struct Device {
  int index;
  void* stream;  // cudaStream_t
  const void* library;
  // Null for the emulator, whose memory is the host's.
  DeviceMemory (*allocate)(const Device& device, DType dtype, const Shape& shape);
  void (*release)(void* owner);
  bool tf32 = false;  // products of float32 may round their factors to 11 significant bits
};

#ifdef FASTDL_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

#ifdef FASTDL_EMULATE_CUDA
constexpr bool kEmulatesCuda = true;
#else
constexpr bool kEmulatesCuda = false;
#endif

// Set by _core.emulate_cuda: arrays of the host are a device's.
inline bool emulates_cuda = false;

// Null while arrays of the host are worked on.
inline thread_local const Device* running_device = nullptr;

// launch(device), if the arrays lie on one. An op returns then: the rest is the CPU's.
template <typename Launch>
bool on_device(Launch&& launch) {
  if constexpr (kHasCuda) {
    if (running_device) {
      launch(*running_device);
      return true;
    }
  }
  return false;
}

}  // namespace fastdl
