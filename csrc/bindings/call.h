// One call from Python: arrays in, an op, arrays out.
//
//   Call call("softmax");
//   const Tensor& x = call.input("x", array);      // any layout: copied only when it must be
//   Output& y = call.output(out);                  // fresh memory, or the caller's `out`
//   call.run([&] { ops::softmax_forward(y, x, dim); });   // without the GIL
//   return call.result(y);
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <deque>
#include <ostream>

#include "core/output.h"

namespace fastdl::bindings {

namespace py = pybind11;

// What messages call an argument: "x", or "params[3]" for an element of a list.
struct Name {
  Name(const char* text, py::ssize_t index = -1) : text(text), index(index) {}
  const char* text;
  py::ssize_t index;
  friend std::ostream& operator<<(std::ostream& out, Name name) {
    return name.index < 0 ? out << name.text : out << name.text << '[' << name.index << ']';
  }
};

class Call {
 public:
  explicit Call(const char* op) : op_(op) {}

  // A float32 or float64 array.
  const Tensor& input(Name name, py::handle array);
  // An array of any integer dtype, taken as int64.
  const Tensor& index_input(const char* name, py::handle array);
  // A bool, float32 or float64 array.
  const Tensor& mask_input(const char* name, py::handle array);
  // A float array the op changes in place; what it wrote is there after run().
  const Tensor& inout(Name name, py::handle array);
  // input(), or null for None.
  const Tensor* optional_input(const char* name, py::handle array);
  // The same for a list or tuple of arrays.
  TensorList inputs(const char* name, py::handle arrays);
  TensorList inouts(const char* name, py::handle arrays);

  // A result; `out` is an array to put it into, or None.
  Output& output(py::handle out = py::none());
  // A result that replaces the argument it is made from: output.tensor() is that argument.
  Output& inplace_output(const char* name, py::handle array);

  template <typename Op>
  void run(Op&& op) {
    check_overlap();
    {
      const py::gil_scoped_release release;
      op();
    }
    write_back();
  }

  // The array of an output the op made; each may be asked for once.
  py::array result(Output& output);
  // The same, or None for an output the op left alone.
  py::typing::Optional<py::array> optional_result(Output& output);

 private:
  struct Argument {
    Name name;
    py::array array;       // what the caller gave
    py::array contiguous;  // what the op sees: the same array, or a copy of it
    Tensor tensor;
    bool written;
  };
  struct Result {
    Result() = default;
    explicit Result(const Argument& argument) : output(argument.tensor), out(&argument) {}
    Output output;
    const Argument* out = nullptr;  // the caller's array
  };

  const Tensor& add(Name name, const py::array& array, DType dtype, bool written);
  bool apart() const;
  void check_overlap() const;
  void write_back();

  const char* op_;
  std::deque<Argument> arguments_;  // deques: references to their elements stay valid
  std::deque<Result> results_;
};

}  // namespace fastdl::bindings
