// Where an op puts a result: fresh memory from the pool, or the caller's own `out`.
#pragma once

#include <optional>

#include "core/buffer_pool.h"
#include "core/device.h"

namespace fastdl {

class Output {
 public:
  // A float32 result reaches the caller as `stored`: 16-bit, if he gave such arrays.
  explicit Output(DType stored = DType::float32) : stored_(stored) {}
  explicit Output(const Tensor& out, DType stored = DType::float32)
      : tensor_(out), stored_(stored), given_(true) {}
  ~Output() {
    if (owned_) release();
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Called once by the op, when it knows what it will return.
  const Tensor& make(const char* op, const Shape& shape, DType dtype, bool channels_last = false) {
    const DType stored = dtype == DType::float32 ? stored_ : dtype;
    if (given_) {
      check_type(tensor_.stored == stored, op, "out must be ", stored, ", got ", tensor_.stored);
      check_shape(op, "out", tensor_, shape);
    } else {
      tensor_ = {nullptr, dtype, shape, stored, channels_last};
      checked_multiply(op, shape.numel(), static_cast<int64_t>(dtype_size(dtype)));
      allocate(channels_last);
      owned_ = true;
    }
    return tensor_;
  }

  // Null until made: an op leaves an output it was not asked for alone.
  bool made() const { return tensor_.data != nullptr || owner_ != nullptr; }
  const Tensor& tensor() const { return tensor_; }
  size_t bytes() const { return static_cast<size_t>(tensor_.numel()) * dtype_size(tensor_.dtype); }
  // The caller takes over the memory: a device's by its owner, that of the host to give it back
  // with pool_release(data, bytes()).
  void* disown() {
    owned_ = false;
    return owner_;
  }
  // Takes over memory from the pool in place of its own.
  void replace(const Tensor& tensor) {
    pool_release(tensor_.data, bytes());
    tensor_ = tensor;
  }

 private:
  void allocate(bool channels_last) {
    if (running_device && running_device->allocate) device_ = running_device;
    if (!device_) {
      tensor_.data = pool_allocate(bytes());
      return;
    }
    const Shape& s = tensor_.shape;  // as it lies in memory
    const DeviceMemory memory = device_->allocate(
        *device_, tensor_.dtype, channels_last ? Shape{s[0], s[2], s[3], s[1]} : s);
    tensor_.data = memory.data;
    owner_ = memory.owner;
  }
  void release() { device_ ? device_->release(owner_) : pool_release(tensor_.data, bytes()); }

  Tensor tensor_;
  DType stored_;
  bool given_ = false;
  bool owned_ = false;
  const Device* device_ = nullptr;  // that the memory is on
  void* owner_ = nullptr;
};

}  // namespace fastdl
