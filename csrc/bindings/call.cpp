#include "bindings/call.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/trace.h"
#include "ops/convert.h"

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

// What NumPy calls the dtype of ml_dtypes, which is installed if anyone holds such an array; -1
// before it is imported.
int bfloat16_number() {
  static int number = -1;
  if (number < 0) {
    const auto modules = py::reinterpret_borrow<py::dict>(PyImport_GetModuleDict());
    if (modules.contains("ml_dtypes")) {
      number = py::dtype::from_args(modules["ml_dtypes"].attr("bfloat16")).num();
    }
  }
  return number;
}

constexpr int kFloat16Number = 23;  // NPY_HALF
constexpr int kFirstUserNumber = 256;

int type_number(DType dtype) {
  using py::detail::npy_api;
  static_assert(sizeof(long) == sizeof(int64_t));
  if (dtype == DType::bfloat16) return bfloat16_number();
  constexpr int numbers[] = {npy_api::NPY_FLOAT_, npy_api::NPY_DOUBLE_, -1,
                             kFloat16Number,      npy_api::NPY_LONG_,   npy_api::NPY_UBYTE_,
                             npy_api::NPY_BOOL_};
  return numbers[static_cast<int>(dtype)];
}

std::optional<DType> float_dtype(const py::dtype& dtype) {
  const int number = dtype.num();
  if (number == type_number(DType::float32)) return DType::float32;
  if (number == type_number(DType::float64)) return DType::float64;
  if (number == kFloat16Number) return DType::float16;
  if (number >= kFirstUserNumber && number == bfloat16_number()) return DType::bfloat16;
  return std::nullopt;
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

constexpr const char* kFloats = "float16, bfloat16, float32 or float64 array";

std::pair<py::array, DType> float_array(const char* op, Name name, py::handle object) {
  py::array array = as_array(op, name, object);
  const std::optional<DType> dtype = float_dtype(array.dtype());
  check_type(dtype.has_value(), op, name, " must be a ", kFloats, ", got ", Text{array.dtype()},
             "; convert it with .astype(np.float32)");
  return {std::move(array), *dtype};
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
  return py::isinstance<py::array>(object) &&
         float_dtype(py::reinterpret_borrow<py::array>(object).dtype()).has_value();
}

const Tensor& Call::add(Name name, const py::array& array, DType dtype, Access access) {
  const py::array contiguous = is_plain(array, dtype) ? array : plain_copy(array, dtype);
  arguments_.push_back({name, array, contiguous, view(contiguous, dtype), access});
  Tensor& tensor = arguments_.back().tensor;
  const bool native = dtype == DType::bfloat16 ? native_.bfloat16 : native_.float16;
  if (is_half(dtype) && (!native || access == Access::round)) {
    if (access != Access::round) tensor.data = widened_.emplace_front(tensor.numel()).data();
    tensor.dtype = DType::float32;
    converts_ = true;
  }
  return tensor;
}

const Tensor& Call::input(Name name, py::handle object) {
  const auto [array, dtype] = float_array(op_, name, object);
  return add(name, array, dtype, Access::read);
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
  return add(name, array, DType::int64, Access::read);
}

const Tensor& Call::code_input(const char* name, py::handle object) {
  const py::array array = as_array(op_, name, object);
  check_type(array.dtype().num() == type_number(DType::uint8), op_, name,
             " must be a uint8 array, got ", Text{array.dtype()});
  return add(name, array, DType::uint8, Access::read);
}

const Tensor& Call::mask_input(const char* name, py::handle object) {
  py::array array = as_array(op_, name, object);
  if (array.dtype().kind() == 'b') return add(name, array, DType::boolean, Access::read);
  const std::optional<DType> dtype = float_dtype(array.dtype());
  check_type(dtype.has_value(), op_, name, " must be a bool, ", kFloats, ", got ",
             Text{array.dtype()});
  return add(name, array, *dtype, Access::read);
}

Call::Argument& Call::add_written(Name name, py::handle object, Access access) {
  check_type(py::isinstance<py::array>(object), op_, name, " must be a NumPy array, got ",
             TypeName{object});
  const auto [array, dtype] = float_array(op_, name, object);
  check(array.writeable(), op_, name, " is read-only");
  add(name, array, dtype, access);
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

Tensor Call::Argument::own() const { return view(contiguous, tensor.stored); }

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
    const Tensor narrowed{pool_allocate(bytes), made.stored, made.shape};
    ops::narrow(narrowed, made.ptr<float>());
    result.output.replace(narrowed);
  }
  for (const Argument& argument : arguments_) {
    if (argument.widened() && argument.written()) {
      ops::narrow(argument.own(), argument.tensor.ptr<float>());
    }
  }
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
    const auto [low, high] = byte_bounds(argument.array);
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
    if (argument.written() && !argument.contiguous.is(argument.array)) {
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
