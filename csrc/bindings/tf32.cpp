#include "bindings/tf32.h"

namespace fastdl::bindings {
namespace {

// PyTorch's, once fastdl.torch is imported. Never freed: the interpreter may end before this does.
Library followed = nullptr;
PyObject* source = nullptr;

void follow_tf32(py::type array_type, py::function allows) {
  followed = library_of(array_type);
  Py_XDECREF(source);
  source = allows.release().ptr();
}

}  // namespace

bool allows_tf32(Library library, const char* products) {
  if (!library || library != followed) return false;
  return py::reinterpret_borrow<py::function>(source)(products).cast<bool>();
}

void bind_tf32(py::module_& m) {
  m.def("follow_tf32", &follow_tf32, py::arg("array_type"), py::arg("allows"));
}

}  // namespace fastdl::bindings
