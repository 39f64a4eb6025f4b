#include "cuda/device.h"

#include "cuda/launch.h"

#ifdef FASTDL_EMULATE_CUDA

namespace fastdl::cuda {

int exchange_device(int index) { return index; }

const Limits& limits(const Device&) {
  static constexpr Limits small{4, 80, 163 << 10};
  return small;
}

}  // namespace fastdl::cuda

#else

#include <array>
#include <mutex>
#include <stdexcept>
#include <string>

namespace fastdl::cuda {

void check(cudaError_t error, const char* call, const char* file, int line) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next call reports it again
  throw std::runtime_error(std::string("CUDA: ") + call + " failed: " + cudaGetErrorString(error) +
                           " (" + file + ":" + std::to_string(line) + ")");
}

int exchange_device(int index) {
  int before = 0;
  FASTDL_CUDA_CHECK(cudaGetDevice(&before));
  if (before != index) FASTDL_CUDA_CHECK(cudaSetDevice(index));
  return before;
}

namespace {

Limits ask(int index) {
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    FASTDL_CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
    return value;
  };
  return {attribute(cudaDevAttrMultiProcessorCount),
          10 * attribute(cudaDevAttrComputeCapabilityMajor),
          static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin))};
}

}  // namespace

const Limits& limits(const Device& device) {
  constexpr size_t kDevices = 64;
  static std::array<std::once_flag, kDevices> asked;
  static std::array<Limits, kDevices> known;
  const auto index = static_cast<size_t>(device.index);
  std::call_once(asked.at(index), [&] { known[index] = ask(device.index); });
  return known[index];
}

}  // namespace fastdl::cuda

#endif
