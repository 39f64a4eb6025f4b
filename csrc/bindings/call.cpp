#include "bindings/call.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cupy.h"
#include "bindings/tf32.h"
#include "core/trace.h"
#include "ops/convert.h"

namespace fastdl::bindings {
namespace {

constexpr const char* kFloats = "float16, bfloat16, float32 or float64 array";

bool is_float(const Array& array) { return array.kind == 'f' && array.dtype; }

// For messages: the dtype by the caller's name, and how to get another.
struct DTypeOf {
  const Array& array;
  friend std::ostream& operator<<(std::ostream& out, DTypeOf of) {
    return out << Text{of.array.object.attr("dtype")};
  }
};
// With the library: those of NumPy and CuPy share a name.
struct QualifiedName {
  py::handle object;
  friend std::ostream& operator<<(std::ostream& out, QualifiedName name) {
    return out << Text{py::type::handle_of(name.object).attr("__module__")} << '.'
               << TypeName{name.object};
  }
};
struct Conversion {
  const Array& array;
  const char* dtype;
  friend std::ostream& operator<<(std::ostream& out, Conversion to) {
    const char* const how = !to.array.library                     ? ".astype(np."
                            : to.array.library == cupy::library() ? ".astype(cupy."
                                                                  : ".to(torch.";
    return out << "; convert it with " << how << to.dtype << ')';
  }
};

Array float_array(const char* op, Name name, py::handle object) {
  const Array array = as_array(op, name, object);
  check_type(is_float(array), op, name, " must be a ", kFloats, ", got ", DTypeOf{array},
             Conversion{array, "float32"});
  return array;
}

py::sequence as_sequence(const char* op, const char* name, py::handle list) {
  check_type(py::isinstance<py::list>(list) || py::isinstance<py::tuple>(list), op, name,
             " must be a list of arrays, got ", TypeName{list});
  return py::reinterpret_borrow<py::sequence>(list);
}

// The tensors add(name of the element, element) makes of a list's elements.
template <typename Add>
TensorList add_each(const char* op, const char* name, py::handle list, Add&& add) {
  TensorList tensors;
  py::ssize_t i = 0;
  for (const py::handle array : as_sequence(op, name, list))
    tensors.push_back(add(Name(name, i++), array));
  return tensors;
}

}  // namespace

bool holds_floats(py::handle object) {
  return is_array(object) && is_float(as_array("", "", object));
}

void Call::check_one_library(Name name, const Array& array) {
  if (arguments_.empty()) {
    library_ = array.library;
    if (array.device != kHost) device_ = device_of(library_, array.device);
    if (emulates_cuda) device_ = Device{};
    if (device_ && native_.products) device_->tf32 = allows_tf32(library_, native_.products);
  }
  check_type(array.library == library_, op_, name, " is a ", QualifiedName{array.object}, ", ",
             arguments_.front().name, " a ", QualifiedName{arguments_.front().array.object});
  check_type(arguments_.empty() || array.device == arguments_.front().array.device, op_, name,
             " is on ", DeviceOf{array.object}, ", ", arguments_.front().name, " on ",
             DeviceOf{arguments_.front().array.object});
}

// Kernels of CUDA take every float dtype.
bool Call::takes_as_it_is(DType dtype) const {
  return device_ || (dtype == DType::bfloat16 ? native_.bfloat16 : native_.float16);
}

const Tensor& Call::add(Name name, const Array& array, DType dtype, Access access) {
  check_one_library(name, array);
  const bool fits = array.plain && array.dtype == dtype;
  return add(name, array, fits ? array : plain_copy(op_, name, array, dtype), access);
}

const Tensor& Call::add(Name name, const Array& array, const Array& plain, Access access) {
  const DType dtype = *plain.dtype;
  arguments_.push_back({name, array, plain, plain.tensor(), access});
  Tensor& tensor = arguments_.back().tensor;
  if (is_half(dtype) && (!takes_as_it_is(dtype) || access == Access::round)) {
    if (access != Access::round) tensor.data = widened_.emplace_front(tensor.numel()).data();
    tensor.dtype = DType::float32;
    converts_ = true;
  }
  return tensor;
}

const Tensor& Call::input(Name name, py::handle object) {
  const Array array = float_array(op_, name, object);
  return add(name, array, *array.dtype, Access::read);
}

const Tensor& Call::images(Name name, py::handle object) {
  const Array array = float_array(op_, name, object);
  check_one_library(name, array);
  return array.channels_last ? add(name, array, array, Access::read)
                             : add(name, array, *array.dtype, Access::read);
}

const Tensor& Call::images(Name name, py::handle object, bool channels_last) {
  const Array array = float_array(op_, name, object);
  check_one_library(name, array);
  if (!channels_last || !array.library || array.ndim != 4) {
    return add(name, array, *array.dtype, Access::read);
  }
  Array plain = array.channels_last ? array : channels_last_copy(op_, name, array);
  plain.channels_last = true;  // a single channel or pixel looks C-contiguous as well
  return add(name, array, plain, Access::read);
}

const Tensor* Call::optional_input(const char* name, py::handle object) {
  return object.is_none() ? nullptr : &input(name, object);
}

const Tensor& Call::index_input(const char* name, py::handle object) {
  const Array array = as_array(op_, name, object);
  check_type(array.kind == 'i' || (array.kind == 'u' && array.itemsize < 8), op_, name,
             " must be an array of signed integers, got ", DTypeOf{array},
             Conversion{array, "int64"});
  return add(name, array, DType::int64, Access::read);
}

const Tensor& Call::code_input(const char* name, py::handle object) {
  const Array array = as_array(op_, name, object);
  check_type(array.dtype == DType::uint8, op_, name, " must be a uint8 array, got ",
             DTypeOf{array});
  return add(name, array, DType::uint8, Access::read);
}

const Tensor& Call::mask_input(const char* name, py::handle object) {
  const Array array = as_array(op_, name, object);
  check_type(array.dtype == DType::boolean || is_float(array), op_, name, " must be a bool, ",
             kFloats, ", got ", DTypeOf{array});
  return add(name, array, *array.dtype, Access::read);
}

Call::Argument& Call::add_written(Name name, py::handle object, Access access) {
  check_type(is_array(object), op_, name, " must be a NumPy array, got ", TypeName{object});
  const Array array = float_array(op_, name, object);
  check(array.writeable, op_, name, " is read-only");
  add(name, array, *array.dtype, access);
  return arguments_.back();
}

const Tensor& Call::inout(Name name, py::handle array) {
  return add_written(name, array, Access::update).tensor;
}

TensorList Call::inputs(const char* name, py::handle arrays) {
  return add_each(op_, name, arrays,
                  [this](Name item, py::handle array) { return &input(item, array); });
}

TensorList Call::inouts(const char* name, py::handle arrays) {
  return add_each(op_, name, arrays,
                  [this](Name item, py::handle array) { return &inout(item, array); });
}

// What a float32 result of the op becomes.
DType Call::result_dtype() const {
  const bool half = !arguments_.empty() && is_half(arguments_.front().tensor.stored);
  return half ? arguments_.front().tensor.stored : DType::float32;
}

const Tensor& Call::add_with_master(Name name, py::handle array, Name master_name,
                                    py::handle object) {
  const Tensor& master = inout(master_name, object);
  check_type(master.stored == DType::float32, op_, master_name, " must be float32, got ",
             master.stored);
  Tensor& tensor = add_written(name, array, Access::round).tensor;
  check_type(is_half(tensor.stored), op_, master_name, " is for a 16-bit array, ", name, " is ",
             tensor.stored);
  check(master.shape == tensor.shape, op_, master_name, " must have shape ", tensor.shape, ", got ",
        master.shape);
  tensor.data = master.data;
  return tensor;
}

TensorList Call::inouts(const char* name, py::handle arrays, const char* masters_name,
                        py::handle masters) {
  if (masters.is_none()) return inouts(name, arrays);
  const py::sequence each = as_sequence(op_, masters_name, masters);
  const py::ssize_t count = py::len(as_sequence(op_, name, arrays)), given = py::len(each);
  check(given == count, op_, masters_name, " holds ", given, " arrays, ", name, " holds ", count);
  return add_each(op_, name, arrays, [&](Name item, py::handle array) {
    const py::object master = each[item.index];
    if (master.is_none()) return &inout(item, array);
    return &add_with_master(item, array, Name(masters_name, item.index), master);
  });
}

Output& Call::output(py::handle out) {
  const DType stored = result_dtype();
  if (out.is_none()) return results_.emplace_back(stored).output;
  return results_.emplace_back(add_written("out", out, Access::write), stored).output;
}

Output& Call::output_like(const Tensor& argument) {
  return results_.emplace_back(argument.stored).output;
}

Output& Call::statistic() { return results_.emplace_back(DType::float32).output; }

Output& Call::inplace_output(const char* name, py::handle array) {
  const Argument& argument = add_written(name, array, Access::update);
  return results_.emplace_back(argument, argument.tensor.stored).output;
}

void Call::widen() {
  for (const Argument& argument : arguments_) {
    const bool read = argument.access == Access::read || argument.access == Access::update;
    if (!argument.widened() || !read) continue;
    ops::widen(argument.tensor.ptr<float>(), argument.own());
  }
}

void Call::narrow() {
  trace_widening();
  for (Result& result : results_) {
    const Tensor made = result.output.tensor();
    if (result.out || !result.output.made() || made.dtype == made.stored) continue;
    const size_t bytes = static_cast<size_t>(made.numel()) * dtype_size(made.stored);
    const Tensor narrowed{pool_allocate(bytes), made.stored, made.shape, made.stored,
                          made.channels_last};
    ops::narrow(narrowed, made.ptr<float>());
    result.output.replace(narrowed);
  }
  std::deque<Tensor> own;
  TensorList to, from;
  for (const Argument& argument : arguments_) {
    if (!argument.widened() || !argument.written()) continue;
    to.push_back(&own.emplace_back(argument.own()));
    from.push_back(&argument.tensor);
  }
  ops::narrow(to, from);
}

// The op spoke of float32: its bytes become those of the caller's arrays, and explain says why.
void Call::trace_widening() const {
  double bytes = 0, stored_bytes = 0;
  DType half = DType::float32;
  const auto add = [&](const Tensor& tensor) {
    const double numel = static_cast<double>(tensor.numel());
    bytes += numel * static_cast<double>(dtype_size(tensor.dtype));
    stored_bytes += numel * static_cast<double>(dtype_size(tensor.stored));
    if (tensor.dtype != tensor.stored) half = tensor.stored;
  };
  for (const Argument& argument : arguments_) {
    if (argument.access == Access::round) {  // written besides its master
      stored_bytes += static_cast<double>(argument.tensor.numel() * 2);
    } else {
      add(argument.tensor);
    }
  }
  for (const Result& result : results_) {
    if (!result.out && result.output.made()) add(result.output.tensor());
  }
  thread_local std::string reason;  // the trace keeps the pointer
  std::string text = std::string(dtype_name(half)) + " is widened to float32";
  if (*last_trace.reason) text.append("; ").append(last_trace.reason);
  reason = std::move(text);
  last_trace.reason = reason.c_str();
  if (bytes > 0) last_trace.bytes *= stored_bytes / bytes;
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
    const auto [low, high] = argument.array.byte_bounds();
    if (low < high) spans.push_back({low, high, argument.written()});
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
    if (!written.written()) continue;
    for (const Argument& other : arguments_) {
      check(&other == &written || !share_memory(written.array, other.array), op_, written.name,
            " shares memory with ", other.name);
    }
  }
}

void Call::write_back() {
  for (const Argument& argument : arguments_) {
    if (argument.written() && argument.plain.object.ptr() != argument.array.object.ptr()) {
      copy_back(argument.array, argument.plain);
    }
  }
}

py::typing::Optional<py::array> Call::optional_result(Output& output) {
  return output.made() ? py::object(result(output)) : py::none();
}

py::array Call::result(Output& output) {
  for (const Result& result : results_) {
    if (&result.output == &output && result.out) {
      return py::reinterpret_borrow<py::array>(result.out->array.object);
    }
  }
  void* const owner = output.disown();
  const py::object array = owner ? new_device_array(library_, output.tensor(), owner)
                                 : new_array(library_, output.tensor(), output.bytes());
  return py::reinterpret_borrow<py::array>(array);
}

}  // namespace fastdl::bindings
