// Starting a kernel: in cuda/*.cu instead of kernel<<<...>>>(...), so that errors are not lost and
// the emulator (docs/cuda.md) can run it.
#pragma once

#include "core/output.h"

#ifdef FASTDL_EMULATE_CUDA
#include "cuda/emulator/emulator.h"
#else
#include <cuda_runtime.h>
#endif

// For functions that would fill a kernel with copies of themselves.
#define FASTDL_OUT_OF_LINE __attribute__((noinline))

namespace fastdl::cuda {

struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
};

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Grid dimensions of a GPU: x below 2^31, y and z below 2^16. Kernels stride over what is beyond.
constexpr int64_t kMaxBlocks = 0x7fffffff;

template <typename T>
__host__ __device__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

#ifdef FASTDL_EMULATE_CUDA

template <typename... Parameters, typename... Arguments>
void launch(const Device&, const Grid& grid, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  emulator::run(grid.blocks, grid.threads, grid.shared_bytes, [&] { kernel(arguments...); });
}

inline void copy(const Device&, void* to, const void* from, size_t bytes) {
  memcpy(to, from, bytes);
}

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emulator::dynamic_shared());
}

#else

void check(cudaError_t error, const char* call, const char* file, int line);
#define FASTDL_CUDA_CHECK(call) ::fastdl::cuda::check(call, #call, __FILE__, __LINE__)

template <typename... Parameters, typename... Arguments>
void launch(const Device& device, const Grid& grid, void (*kernel)(Parameters...),
            const Arguments&... arguments) {
  if (grid.shared_bytes > 48 << 10) {  // what every kernel may have without asking
    FASTDL_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(grid.shared_bytes)));
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(device.stream);
  FASTDL_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

inline void copy(const Device& device, void* to, const void* from, size_t bytes) {
  FASTDL_CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                    static_cast<cudaStream_t>(device.stream)));
}

template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

#endif

// Scratch memory on the device, for `count` values of T; free for others when the kernels that were
// launched while it lived are done.
template <typename T>
class Workspace {
 public:
  explicit Workspace(int64_t count) {
    memory_.make("workspace", {count * static_cast<int64_t>(sizeof(T))}, DType::uint8);
  }
  T* data() const { return memory_.tensor().ptr<T>(); }

 private:
  Output memory_;
};

// What kernels are sized by. The emulator is a small GPU.
struct Limits {
  int multiprocessors;
  int capability;       // 80, 90, 100: that of the kernels, not of a faster card they run on
  size_t shared_bytes;  // a block's at most
};
const Limits& limits(const Device& device);

}  // namespace fastdl::cuda
