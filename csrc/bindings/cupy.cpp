#include "bindings/cupy.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace fastdl::bindings::cupy {
namespace {

py::module_ module_cupy() { return py::module_::import("cupy"); }

py::object dtype_object(dlpack::ElementType type) {
  if (type.code == dlpack::kBfloat) return py::module_::import("ml_dtypes").attr("bfloat16");
  if (type.code == dlpack::kBool) return py::str("bool");
  const char* const name = type.code == dlpack::kFloat ? "float"
                           : type.code == dlpack::kInt ? "int"
                                                       : "uint";
  return py::str(name + std::to_string(type.bits));
}

dlpack::ElementType element_type(py::handle dtype) {
  const auto bits = static_cast<uint8_t>(8 * dtype.attr("itemsize").cast<int>());
  if (dtype.attr("name").cast<std::string>() == "bfloat16") return {dlpack::kBfloat, bits, 1};
  switch (dtype.attr("kind").cast<char>()) {
    case 'f':
      return {dlpack::kFloat, bits, 1};
    case 'i':
      return {dlpack::kInt, bits, 1};
    case 'u':
      return {dlpack::kUint, bits, 1};
    case 'b':
      return {dlpack::kBool, bits, 1};
    default:
      return {dlpack::kComplex, bits, 1};
  }
}

// A view that keeps the array, and its sizes.
struct Owner : dlpack::Managed {
  explicit Owner(py::object cupy_array) : array(std::move(cupy_array)) {
    version = {dlpack::kMajorVersion, dlpack::kMinorVersion};
    deleter = [](dlpack::Managed* self) {
      const py::gil_scoped_acquire gil;
      delete static_cast<Owner*>(self);
    };
    const auto itemsize = array.attr("itemsize").cast<int64_t>();
    for (const py::handle size : array.attr("shape")) shape.push_back(size.cast<int64_t>());
    for (const py::handle step : array.attr("strides")) {
      strides.push_back(step.cast<int64_t>() / itemsize);
    }
    view = {.data = reinterpret_cast<void*>(array.attr("data").attr("ptr").cast<uintptr_t>()),
            .device = {dlpack::kCuda, array.attr("device").attr("id").cast<int32_t>()},
            .ndim = static_cast<int32_t>(shape.size()),
            .type = element_type(array.attr("dtype")),
            .shape = shape.data(),
            .strides = strides.data(),
            .byte_offset = 0};
  }
  py::object array;
  std::vector<int64_t> shape, strides;
};

// body(), whose errors are Python's.
template <typename Body>
int guarded(Body&& body) {
  try {
    body();
    return 0;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return -1;
}

int managed_from_object(void* object, dlpack::Managed** out) {
  return guarded([&] {
    auto array = py::reinterpret_borrow<py::object>(static_cast<PyObject*>(object));
    *out = std::make_unique<Owner>(std::move(array)).release();
  });
}

// Of memory that allocate() made.
int object_from_managed(dlpack::Managed* managed, void** out) {
  const std::unique_ptr<Owner> owner(static_cast<Owner*>(managed));
  *out = owner->array.release().ptr();
  return 0;
}

int allocate(dlpack::View* prototype, dlpack::Managed** out, void* error_context,
             void (*set_error)(void* context, const char* kind, const char* text)) {
  const py::gil_scoped_acquire gil;
  try {
    const py::tuple shape(prototype->ndim);
    for (int i = 0; i < prototype->ndim; ++i) shape[i] = py::int_(prototype->shape[i]);
    auto array = module_cupy().attr("empty")(shape, dtype_object(prototype->type));
    *out = std::make_unique<Owner>(std::move(array)).release();
    return 0;
  } catch (const std::exception& error) {
    set_error(error_context, "CuPy", error.what());
    return -1;
  }
}

int current_stream(int32_t, int32_t device, void** out) {
  return guarded([&] {
    const auto stream = module_cupy().attr("cuda").attr("get_current_stream")(device);
    *out = reinterpret_cast<void*>(stream.attr("ptr").cast<uintptr_t>());
  });
}

}  // namespace

bool is_array(py::handle type) {
  const py::object module = type.attr("__module__"), name = type.attr("__name__");
  return module.equal(py::str("cupy")) && name.equal(py::str("ndarray"));
}

Library library() {
  static const dlpack::ExchangeApi api{
      .version = {dlpack::kMajorVersion, dlpack::kMinorVersion},
      .previous = nullptr,
      .allocate = &allocate,
      .managed_from_object = &managed_from_object,
      .object_from_managed = &object_from_managed,
      .view_from_object = nullptr,
      .current_stream = &current_stream,
  };
  return &api;
}

py::object copy(const Array& array, DType dtype) {
  return module_cupy().attr("ascontiguousarray")(array.object, dtype_object(dlpack_type(dtype)));
}

void copy_back(const Array& target, const Array& source) {
  module_cupy().attr("copyto")(target.object, source.object);
}

}  // namespace fastdl::bindings::cupy
