// An int, or one for the height and one for the width.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <ostream>

#include "core/tensor.h"

namespace fastdl::bindings {

namespace py = pybind11;

// For messages: asks Python for the text only when one is written.
struct Repr {
  py::handle object;
  friend std::ostream& operator<<(std::ostream& out, Repr repr) {
    return out << py::repr(repr.object).cast<std::string>();
  }
};

inline bool is_int(py::handle value) {
  return PyIndex_Check(value.ptr()) && !PyBool_Check(value.ptr());
}

// `expected` says in an error what would be right.
inline int64_t to_int(const char* op, const char* name, const char* expected, py::handle value) {
  check_type(is_int(value), op, name, " must be ", expected, ", got ", Repr{value});
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) throw py::error_already_set();
  int overflow;
  const int64_t number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  check(overflow == 0, op, name, " does not fit 64 bits: ", Repr{index});
  return number;
}

constexpr const char* kIntOrPair = "an int or a pair of ints";

inline py::sequence to_sequence(const char* op, const char* name, const char* expected,
                                py::handle value) {
  check_type(py::isinstance<py::tuple>(value) || py::isinstance<py::list>(value), op, name,
             " must be ", expected, ", got ", Repr{value});
  return py::reinterpret_borrow<py::sequence>(value);
}

// As in torch, one int in a sequence stands for both.
inline std::array<int64_t, 2> to_pair(const char* op, const char* name, py::handle value) {
  if (is_int(value)) {
    const int64_t both = to_int(op, name, kIntOrPair, value);
    return {both, both};
  }
  const py::sequence values = to_sequence(op, name, kIntOrPair, value);
  check(values.size() == 1 || values.size() == 2, op, name, " must be ", kIntOrPair, ", got ",
        values.size(), " values");
  return {to_int(op, name, kIntOrPair, values[0]),
          to_int(op, name, kIntOrPair, values[values.size() - 1])};
}

inline Shape to_shape(const char* op, const char* name, py::handle value) {
  Shape shape;
  for (const py::handle size : to_sequence(op, name, "a sequence of ints", value)) {
    shape.push_back(to_int(op, name, "a sequence of ints", size));
  }
  return shape;
}

}  // namespace fastdl::bindings
