// What a caller passes for an array: a NumPy array, a tensor of a library that offers DLPack's C
// exchange API (PyTorch), or an array of CuPy. Ops see pointer, dtype and shape; results are arrays
// of the caller's kind.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <ostream>
#include <string>

#include "bindings/dlpack.h"
#include "core/device.h"

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

// For messages: what costs a call into Python is done only when the message is written.
struct Text {
  py::handle object;
  friend std::ostream& operator<<(std::ostream& out, Text text) {
    return out << py::str(text.object).cast<std::string>();
  }
};
struct TypeName {
  py::handle object;
  friend std::ostream& operator<<(std::ostream& out, TypeName name) {
    return out << Text{py::type::handle_of(name.object).attr("__name__")};
  }
};

struct DeviceOf {
  py::handle object;
  friend std::ostream& operator<<(std::ostream& out, DeviceOf of) {
    return out << Text{of.object.attr("device")};
  }
};

// Where arrays of a kind come from; null for NumPy.
using Library = const dlpack::ExchangeApi*;

constexpr int kHost = -1;

struct Array {
  py::object object;  // keeps the memory alive, and the sizes where these are its own
  Library library;
  char kind;                   // of the elements, in NumPy's letters: b, i, u, f, or V for others
  std::optional<DType> dtype;  // of the elements, if ops know it
  void* data;
  int ndim;
  int64_t itemsize;
  const int64_t *shape, *strides;
  int64_t stride_unit;  // bytes
  bool plain;           // C-contiguous, aligned, in native byte order: an op can take it as it lies
  bool writeable;
  bool channels_last = false;  // images as plain, but (N, H, W, C) in memory; PyTorch's alone
  int device = kHost;          // the index of a CUDA device
  py::object sizes = {};       // keeps them alive, where the object has none in C

  // The first byte of the elements and the one past the last.
  std::pair<uintptr_t, uintptr_t> byte_bounds() const;
  Tensor tensor() const {
    return {data, *dtype, Shape(shape, shape + ndim), *dtype, channels_last};
  }
};

dlpack::ElementType dlpack_type(DType dtype);

// TypeError for what is neither a NumPy array or scalar nor a tensor.
Array as_array(const char* op, Name name, py::handle object);
// Whether it is an array proper, which can be written to.
bool is_array(py::handle object);

Array plain_copy(const char* op, Name name, const Array& array, DType dtype);
Array channels_last_copy(const char* op, Name name, const Array& array);
void copy_back(const Array& target, const Array& source);
// Whether an element of one lies where an element of the other does.
bool share_memory(const Array& a, const Array& b);

// An array over memory of the pool, which it gives back when it dies.
py::object new_array(Library library, const Tensor& tensor, size_t bytes);

// Of the arrays of a type; null if they do not offer themselves so.
Library library_of(py::type array_type);
// The stream that is current on a CUDA device, and memory there, by the library of the arrays.
Device device_of(Library library, int index);
// An array over such memory.
py::object new_device_array(Library library, const Tensor& tensor, void* owner);

}  // namespace fastdl::bindings
