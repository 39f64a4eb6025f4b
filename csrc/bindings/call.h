// One call from Python: arrays in, an op, arrays out.
//
//   Call call("softmax");
//   const Tensor& x = call.input("x", array);      // any layout: copied only when it must be
//   Output& y = call.output(out);                  // fresh memory, or the caller's `out`
//   call.run([&] { ops::softmax_forward(y, x, dim); });   // without the GIL
//   return call.result(y);
//
// 16-bit arrays: an op without kernels for them gets float32 tensors that remember what they are
// (Tensor::stored). run() widens them before the op, and rounds what it returns or wrote after it.
#pragma once

#include <pybind11/typing.h>

#include <deque>
#include <forward_list>

#include "bindings/array.h"
#include "core/output.h"
#include "cuda/device.h"

namespace fastdl::bindings {

// Whether an array, or anything else, holds numbers that input() takes.
bool holds_floats(py::handle object);

// The 16-bit dtypes an op takes as they are, and what products it makes of float32 arrays on a
// device: see allows_tf32.
struct Native {
  bool bfloat16 = false;
  bool float16 = false;
  const char* products = nullptr;
};
constexpr Native kBothHalves{true, true};

// The device of a call is the one that ops ask for, and CUDA's current one, while this lives.
class OnDevice {
 public:
  explicit OnDevice(const std::optional<Device>& device) {
    if (!device) return;
    if constexpr (kHasCuda) before_ = cuda::exchange_device(device->index);
    running_device = &*device;
  }
  ~OnDevice() {
    if (!running_device) return;
    running_device = nullptr;
    if constexpr (kHasCuda) cuda::exchange_device(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

class Call {
 public:
  explicit Call(const char* op, Native native = {}) : op_(op), native_(native) {}

  // A float array: bfloat16, float16, float32 or float64.
  const Tensor& input(Name name, py::handle array);
  // The same for images, which the op takes as they lie: its tensor may be channels_last.
  const Tensor& images(Name name, py::handle array);
  // Likewise in the layout of images that they belong to.
  const Tensor& images(Name name, py::handle array, bool channels_last);
  // An array of any integer dtype, taken as int64.
  const Tensor& index_input(const char* name, py::handle array);
  // A uint8 array.
  const Tensor& code_input(const char* name, py::handle array);
  // A bool or float array.
  const Tensor& mask_input(const char* name, py::handle array);
  // Whether the arrays lie on a device, or count as if they did.
  bool on_device() const { return device_.has_value(); }
  // A float array the op changes in place; what it wrote is there after run().
  const Tensor& inout(Name name, py::handle array);
  // input(), or null for None.
  const Tensor* optional_input(const char* name, py::handle array);
  // The same for a list or tuple of arrays.
  TensorList inputs(const char* name, py::handle arrays);
  TensorList inouts(const char* name, py::handle arrays);
  // inouts() with masters: a list, or None. Where it holds a float32 array, and not None, the op
  // changes that one, and the 16-bit array becomes its rounding.
  TensorList inouts(const char* name, py::handle arrays, const char* masters_name,
                    py::handle masters);

  // A result; `out` is an array to put it into, or None. Where the op makes float32 of 16-bit
  // arrays, it has the dtype of the first of them.
  Output& output(py::handle out = py::none());
  // A result with the dtype of an argument: a gradient where arguments may differ in dtype.
  Output& output_like(const Tensor& argument);
  // A result that stays float32 beside 16-bit arrays: what backward needs of a sum.
  Output& statistic();
  // A result that replaces the argument it is made from: output.tensor() is that argument.
  Output& inplace_output(const char* name, py::handle array);

  template <typename Op>
  void run(Op&& op) {
    check_overlap();
    {
      const OnDevice on_device(device_);
      const py::gil_scoped_release release;
      if (converts_) widen();
      op();
      if (converts_) narrow();
    }
    write_back();
  }

  // The array of an output the op made, of the kind of the arguments (for the stubs, NumPy's); each
  // may be asked for once.
  py::array result(Output& output);
  // The same, or None for an output the op left alone.
  py::typing::Optional<py::array> optional_result(Output& output);

 private:
  enum class Access { read, write, update, round };  // round: from its master
  struct Argument {
    Name name;
    Array array;    // what the caller gave
    Array plain;    // what the op sees: the same array, or a copy of it
    Tensor tensor;  // a float32 copy of that, if it is 16-bit
    Access access;

    bool written() const { return access != Access::read; }
    bool widened() const { return tensor.dtype != tensor.stored; }
    Tensor own() const { return plain.tensor(); }
  };
  struct Result {
    explicit Result(DType stored) : output(stored) {}
    Result(const Argument& argument, DType stored)
        : output(argument.tensor, stored), out(&argument) {}
    Output output;
    const Argument* out = nullptr;  // the caller's array
  };

  void check_one_library(Name name, const Array& array);
  bool takes_as_it_is(DType dtype) const;
  const Tensor& add(Name name, const Array& array, DType dtype, Access access);
  const Tensor& add(Name name, const Array& array, const Array& plain, Access access);
  Argument& add_written(Name name, py::handle array, Access access);
  const Tensor& add_with_master(Name name, py::handle array, Name master_name, py::handle master);
  DType result_dtype() const;
  void widen();
  void narrow();
  void trace_widening() const;
  bool apart() const;
  void check_overlap() const;
  void write_back();

  const char* op_;
  Native native_;
  Library library_ = nullptr;       // of all arguments
  std::optional<Device> device_;    // likewise, if it is no host's
  std::deque<Argument> arguments_;  // deques: references to their elements stay valid
  std::deque<Result> results_;
  std::forward_list<Workspace<float>> widened_;
  bool converts_ = false;  // whether an argument is 16-bit and the op's is not
};

}  // namespace fastdl::bindings
