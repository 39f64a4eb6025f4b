// Where an op puts a result: fresh memory from the pool, or the caller's own `out`.
#pragma once

#include <optional>

#include "core/buffer_pool.h"
#include "core/tensor.h"

namespace fastdl {

class Output {
 public:
  Output() = default;
  explicit Output(const Tensor& out) : tensor_(out), given_(true) {}
  ~Output() {
    if (owned_) pool_release(tensor_.data, bytes());
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  // Called once by the op, when it knows what it will return.
  const Tensor& make(const char* op, const Shape& shape, DType dtype) {
    if (given_) {
      check_type(tensor_.dtype == dtype, op, "out must be ", dtype, ", got ", tensor_.dtype);
      check_shape(op, "out", tensor_, shape);
    } else {
      tensor_ = {nullptr, dtype, shape};
      checked_multiply(op, shape.numel(), static_cast<int64_t>(dtype_size(dtype)));
      tensor_.data = pool_allocate(bytes());
      owned_ = true;
    }
    return tensor_;
  }

  // Null until made: an op leaves an output it was not asked for alone.
  bool made() const { return tensor_.data != nullptr; }
  const Tensor& tensor() const { return tensor_; }
  size_t bytes() const { return static_cast<size_t>(tensor_.numel()) * dtype_size(tensor_.dtype); }
  // The caller takes over the memory, and gives it back with pool_release(data, bytes()).
  void disown() { owned_ = false; }

 private:
  Tensor tensor_;
  bool given_ = false;
  bool owned_ = false;
};

}  // namespace fastdl
