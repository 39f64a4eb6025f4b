#include "bindings/call.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace fastdl::bindings {
namespace {

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

int type_number(DType dtype) {
  using py::detail::npy_api;
  static_assert(sizeof(long) == sizeof(int64_t));
  constexpr int numbers[] = {npy_api::NPY_FLOAT_, npy_api::NPY_DOUBLE_, npy_api::NPY_LONG_,
                             npy_api::NPY_BOOL_};
  return numbers[static_cast<int>(dtype)];
}

bool is_float(const py::dtype& dtype) {
  return dtype.num() == type_number(DType::float32) || dtype.num() == type_number(DType::float64);
}

DType float_dtype(const py::dtype& dtype) {
  return dtype.num() == type_number(DType::float32) ? DType::float32 : DType::float64;
}

// A NumPy array or scalar; what looks like one but means something else is refused.
py::array as_array(const char* op, Name name, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    const auto numpy = py::module_::import("numpy");
    check_type(py::isinstance(object, numpy.attr("generic")), op, name,
               " must be a NumPy array, got ", TypeName{object}, "; convert it with np.asarray");
    return numpy.attr("asarray")(object);
  }
  static const py::handle ndarray =
      py::object(py::module_::import("numpy").attr("ndarray")).release();
  if (!py::type::handle_of(object).is(ndarray)) {
    check_type(!py::isinstance(object, py::module_::import("numpy.ma").attr("MaskedArray")), op,
               name, " is a masked array; fill it with .filled(value) first");
  }
  return py::reinterpret_borrow<py::array>(object);
}

py::array float_array(const char* op, Name name, py::handle object) {
  py::array array = as_array(op, name, object);
  check_type(is_float(array.dtype()), op, name, " must be a float32 or float64 array, got ",
             Text{array.dtype()}, "; convert it with .astype(np.float32)");
  return array;
}

// What an op can work on as it lies.
bool is_plain(const py::array& array, DType dtype) {
  constexpr int needed = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  const py::dtype own = array.dtype();
  return (array.flags() & needed) == needed && own.num() == type_number(dtype) &&
         (own.byteorder() == '=' || own.byteorder() == '|');
}

py::array plain_copy(const py::array& array, DType dtype) {
  return py::module_::import("numpy").attr("array")(array, py::dtype(type_number(dtype)),
                                                    py::arg("order") = "C");
}

Tensor view(const py::array& array, DType dtype) {
  return {const_cast<void*>(array.data()), dtype,
          Shape(array.shape(), array.shape() + array.ndim())};
}

// The first byte of an array's elements and the one past the last.
std::pair<uintptr_t, uintptr_t> byte_bounds(const py::array& array) {
  auto low = reinterpret_cast<uintptr_t>(array.data()), high = low;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    if (array.shape(i) == 0) return {low, low};
    const py::ssize_t extent = (array.shape(i) - 1) * array.strides(i);
    (extent < 0 ? low : high) += static_cast<uintptr_t>(extent);
  }
  return {low, high + static_cast<uintptr_t>(array.itemsize())};
}

bool share_memory(const py::array& a, const py::array& b) {
  const auto [a_low, a_high] = byte_bounds(a);
  const auto [b_low, b_high] = byte_bounds(b);
  if (a_low >= b_high || b_low >= a_high) return false;
  return py::module_::import("numpy").attr("shares_memory")(a, b).cast<bool>();
}

// The tensors add(name of the element, element) makes of a list's elements.
template <typename Add>
TensorList add_each(const char* op, const char* name, py::handle list, Add&& add) {
  check_type(py::isinstance<py::list>(list) || py::isinstance<py::tuple>(list), op, name,
             " must be a list of arrays, got ", TypeName{list});
  TensorList tensors;
  py::ssize_t i = 0;
  for (const py::handle array : list) tensors.push_back(add(Name(name, i++), array));
  return tensors;
}

}  // namespace

const Tensor& Call::add(Name name, const py::array& array, DType dtype, bool written) {
  const py::array contiguous = is_plain(array, dtype) ? array : plain_copy(array, dtype);
  arguments_.push_back({name, array, contiguous, view(contiguous, dtype), written});
  return arguments_.back().tensor;
}

const Tensor& Call::input(Name name, py::handle object) {
  const py::array array = float_array(op_, name, object);
  return add(name, array, float_dtype(array.dtype()), false);
}

const Tensor* Call::optional_input(const char* name, py::handle object) {
  return object.is_none() ? nullptr : &input(name, object);
}

const Tensor& Call::index_input(const char* name, py::handle object) {
  const py::array array = as_array(op_, name, object);
  const char kind = array.dtype().kind();
  check_type(kind == 'i' || (kind == 'u' && array.itemsize() < 8), op_, name,
             " must be an array of signed integers, got ", Text{array.dtype()},
             "; convert it with .astype(np.int64)");
  return add(name, array, DType::int64, false);
}

const Tensor& Call::mask_input(const char* name, py::handle object) {
  const py::array array = as_array(op_, name, object);
  const py::dtype dtype = array.dtype();
  check_type(dtype.kind() == 'b' || is_float(dtype), op_, name,
             " must be a bool, float32 or float64 array, got ", Text{dtype});
  return add(name, array, dtype.kind() == 'b' ? DType::boolean : float_dtype(dtype), false);
}

const Tensor& Call::inout(Name name, py::handle object) {
  check_type(py::isinstance<py::array>(object), op_, name, " must be a NumPy array, got ",
             TypeName{object});
  const py::array array = float_array(op_, name, object);
  check(array.writeable(), op_, name, " is read-only");
  return add(name, array, float_dtype(array.dtype()), true);
}

TensorList Call::inputs(const char* name, py::handle arrays) {
  return add_each(op_, name, arrays,
                  [this](Name item, py::handle array) { return &input(item, array); });
}

TensorList Call::inouts(const char* name, py::handle arrays) {
  return add_each(op_, name, arrays,
                  [this](Name item, py::handle array) { return &inout(item, array); });
}

Output& Call::output(py::handle out) {
  return out.is_none() ? results_.emplace_back().output : inplace_output("out", out);
}

Output& Call::inplace_output(const char* name, py::handle array) {
  inout(name, array);
  return results_.emplace_back(arguments_.back()).output;
}

// Whether the bounds of every written argument lie apart from those of all others: mostly they do,
// and a sort tells.
bool Call::apart() const {
  struct Span {
    uintptr_t low, high;
    bool written;
  };
  std::vector<Span> spans;
  spans.reserve(arguments_.size());
  for (const Argument& argument : arguments_) {
    const auto [low, high] = byte_bounds(argument.array);
    if (low < high) spans.push_back({low, high, argument.written});
  }
  std::sort(spans.begin(), spans.end(), [](Span a, Span b) { return a.low < b.low; });
  uintptr_t high = 0, written_high = 0;  // of the spans so far
  for (const Span& span : spans) {
    if (span.low < (span.written ? high : written_high)) return false;
    high = std::max(high, span.high);
    if (span.written) written_high = std::max(written_high, span.high);
  }
  return true;
}

void Call::check_overlap() const {
  if (apart()) return;
  for (const Argument& written : arguments_) {
    if (!written.written) continue;
    for (const Argument& other : arguments_) {
      check(&other == &written || !share_memory(written.array, other.array), op_, written.name,
            " shares memory with ", other.name);
    }
  }
}

void Call::write_back() {
  for (const Argument& argument : arguments_) {
    if (argument.written && !argument.contiguous.is(argument.array)) {
      py::module_::import("numpy").attr("copyto")(argument.array, argument.contiguous);
    }
  }
}

py::typing::Optional<py::array> Call::optional_result(Output& output) {
  return output.made() ? py::object(result(output)) : py::none();
}

py::array Call::result(Output& output) {
  for (const Result& result : results_) {
    if (&result.output == &output && result.out) return result.out->array;
  }
  struct Owned {
    void* data;
    size_t bytes;
    ~Owned() { pool_release(data, bytes); }
  };
  const Tensor& tensor = output.tensor();
  auto owned = std::make_unique<Owned>(tensor.data, output.bytes());
  output.disown();
  const py::capsule base(owned.release(), [](void* p) { delete static_cast<Owned*>(p); });
  return py::array(py::dtype(type_number(tensor.dtype)),
                   std::vector<py::ssize_t>(tensor.shape.begin(), tensor.shape.end()), tensor.data,
                   base);
}

}  // namespace fastdl::bindings
