#include "bindings/array.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/cupy.h"
#include "core/buffer_pool.h"
#include "ops/channels_last.h"

namespace fastdl::bindings {
namespace {

using py::detail::npy_api;

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
  static_assert(sizeof(long) == sizeof(int64_t));
  if (dtype == DType::bfloat16) return bfloat16_number();
  constexpr int numbers[] = {npy_api::NPY_FLOAT_, npy_api::NPY_DOUBLE_, -1,
                             kFloat16Number,      npy_api::NPY_LONG_,   npy_api::NPY_UBYTE_,
                             npy_api::NPY_BOOL_};
  return numbers[static_cast<int>(dtype)];
}

std::optional<DType> numpy_dtype(const py::dtype& dtype) {
  const int number = dtype.num();
  for (const DType known : {DType::float32, DType::float64, DType::float16, DType::int64,
                            DType::uint8, DType::boolean}) {
    if (number == type_number(known)) return known;
  }
  if (number >= kFirstUserNumber && number == bfloat16_number()) return DType::bfloat16;
  return std::nullopt;
}

Array numpy_array(const py::array& array) {
  constexpr int plain = int{py::array::c_style} | int{npy_api::NPY_ARRAY_ALIGNED_};
  const py::dtype dtype = array.dtype();
  const bool native = dtype.byteorder() == '=' || dtype.byteorder() == '|';
  static_assert(sizeof(py::ssize_t) == sizeof(int64_t));
  const auto sizes = [](const py::ssize_t* p) { return reinterpret_cast<const int64_t*>(p); };
  const std::optional<DType> known = numpy_dtype(dtype);
  return {.object = array,
          .library = nullptr,
          .kind = known == DType::bfloat16 ? 'f' : dtype.kind(),
          .dtype = known,
          .data = const_cast<void*>(array.data()),
          .ndim = static_cast<int>(array.ndim()),
          .itemsize = array.itemsize(),
          .shape = sizes(array.shape()),
          .strides = sizes(array.strides()),
          .stride_unit = 1,
          .plain = (array.flags() & plain) == plain && native,
          .writeable = array.writeable()};
}

// Null if the type has none that we understand.
Library exchange_api_of(PyTypeObject* type) {
  if (cupy::is_array(reinterpret_cast<PyObject*>(type))) return cupy::library();
  static const py::handle name = py::str("__dlpack_c_exchange_api__").release();
  const auto capsule = py::reinterpret_steal<py::object>(
      PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name.ptr()));
  if (!capsule) {
    PyErr_Clear();
    return nullptr;
  }
  auto api = static_cast<Library>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) throw py::error_already_set();
  while (api && api->version.major > dlpack::kMajorVersion) api = api->previous;
  return api && api->version.major == dlpack::kMajorVersion && api->view_from_object ? api
                                                                                     : nullptr;
}

// The same for an object. The last type that has one is remembered (and kept alive, so that no
// other can take its place): an optimiser's hundreds of tensors are of one type.
Library exchange_api(py::handle object) {
  static PyTypeObject* last = nullptr;
  static Library last_api = nullptr;
  PyTypeObject* const type = Py_TYPE(object.ptr());
  if (type == last) return last_api;
  const Library api = exchange_api_of(type);
  if (api) {
    Py_INCREF(type);
    Py_XDECREF(std::exchange(last, type));
    last_api = api;
  }
  return api;
}

std::optional<DType> dlpack_dtype(dlpack::ElementType type) {
  constexpr DType floats[] = {DType::float16, DType::float32, DType::float64};
  switch (type.code) {
    case dlpack::kFloat:
      for (const DType known : floats) {
        if (type.bits == 8 * dtype_size(known)) return known;
      }
      return std::nullopt;
    case dlpack::kBfloat:
      return DType::bfloat16;
    case dlpack::kInt:
      return type.bits == 64 ? std::optional(DType::int64) : std::nullopt;
    case dlpack::kUint:
      return type.bits == 8 ? std::optional(DType::uint8) : std::nullopt;
    case dlpack::kBool:
      return DType::boolean;
    default:
      return std::nullopt;
  }
}

char letter_of(uint8_t code) {
  constexpr char letters[] = {'i', 'u', 'f', 'V', 'f', 'V', 'b'};
  return code < sizeof(letters) ? letters[code] : 'V';
}

bool is_contiguous(const dlpack::View& view) {
  int64_t expected = 1;
  bool contiguous = true;
  for (int i = view.ndim; i-- > 0;) {
    if (view.shape[i] == 0) return true;
    contiguous = contiguous && (view.shape[i] == 1 || view.strides[i] == expected);
    expected *= view.shape[i];
  }
  return contiguous;
}

// Images in PyTorch's channels_last, which is no C-contiguous layout as well.
bool is_channels_last(const dlpack::View& view) {
  if (view.ndim != 4) return false;
  const int64_t* const size = view.shape;
  const int64_t expected[] = {size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]};
  return std::equal(expected, expected + 4, view.strides);
}

// A view of PyTorch's whose memory holds the negatives of its elements; DLPack does not tell.
bool is_negated(py::handle object) {
  static const py::handle name = py::str("is_neg").release();
  const auto negated =
      py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), name.ptr()));
  if (!negated) throw py::error_already_set();
  return negated.is(py::handle(Py_True));
}

void device_release(void* owner) {
  auto* const managed = static_cast<dlpack::Managed*>(owner);
  if (managed->deleter) managed->deleter(managed);
}

constexpr const char* kHowToGetCuda =
    kHasCuda ? " and on CUDA devices"
             : " (for CUDA, install it from source where nvcc is in the PATH)";

// The view of an object, and what keeps the sizes it points to alive, if the object does not.
int view_of(py::handle object, Library library, dlpack::View& view, py::object& sizes) {
  if (library->view_from_object) return library->view_from_object(object.ptr(), &view);
  dlpack::Managed* managed;
  if (library->managed_from_object(object.ptr(), &managed) != 0) return -1;
  view = managed->view;
  sizes = py::capsule(managed, [](void* p) { device_release(p); });
  return 0;
}

Array library_array(const char* op, Name name, py::handle object, Library library) {
  dlpack::View view;
  py::object sizes;
  if (view_of(object, library, view, sizes) != 0) {
    PyErr_Clear();
    throw TypeError(message(op, name, " is no dense tensor in memory: ", TypeName{object}));
  }
  const bool empty = std::find(view.shape, view.shape + view.ndim, 0) != view.shape + view.ndim;
  check_type(view.data || empty, op, name, " has no memory: ", TypeName{object});
  const bool on_host = view.device.type == dlpack::kCpu || view.device.type == dlpack::kCudaHost;
  const bool on_cuda = view.device.type == dlpack::kCuda && kHasCuda;
  check_type(on_host || on_cuda, op, name, " is on another device: ", DeviceOf{object},
             "; this build of fastdl works on the CPU", kHowToGetCuda);
  check_type(view.type.lanes == 1, op, name, " has elements of ", view.type.lanes, " lanes");
  char* const data = static_cast<char*>(view.data) + view.byte_offset;
  const int64_t itemsize = view.type.bits / 8;
  const bool aligned = itemsize > 0 && reinterpret_cast<uintptr_t>(data) % itemsize == 0;
  const bool of_torch = library != cupy::library();
  const bool plain = is_contiguous(view);
  const bool channels_last = of_torch && !plain && is_channels_last(view);
  const bool usable = aligned && (plain || channels_last) && !(of_torch && is_negated(object));
  return {.object = py::reinterpret_borrow<py::object>(object),
          .library = library,
          .kind = letter_of(view.type.code),
          .dtype = dlpack_dtype(view.type),
          .data = data,
          .ndim = view.ndim,
          .itemsize = itemsize,
          .shape = view.shape,
          .strides = view.strides,
          .stride_unit = itemsize,
          .plain = plain && usable,
          .writeable = true,
          .channels_last = channels_last && usable,
          .device = on_cuda ? view.device.index : kHost,
          .sizes = std::move(sizes)};
}

struct PoolMemory {
  PoolMemory(void* data, size_t bytes) : data(data), bytes(bytes) {}
  ~PoolMemory() { pool_release(data, bytes); }
  PoolMemory(const PoolMemory&) = delete;
  PoolMemory& operator=(const PoolMemory&) = delete;
  void* data;
  size_t bytes;
};

py::object library_array_of(Library library, const Tensor& tensor,
                            std::unique_ptr<PoolMemory> memory) {
  struct Owner : dlpack::Managed {
    Shape shape, strides;
    std::unique_ptr<PoolMemory> memory;
  };
  auto owner = std::make_unique<Owner>();
  owner->shape = owner->strides = tensor.shape;
  constexpr int kChannelsLast[] = {0, 2, 3, 1};
  for (int64_t i = tensor.ndim(), stride = 1; i-- > 0;) {
    const int64_t axis = tensor.channels_last ? kChannelsLast[i] : i;
    owner->strides[axis] = stride;
    stride *= tensor.shape[axis];
  }
  owner->version = {dlpack::kMajorVersion, dlpack::kMinorVersion};
  owner->deleter = [](dlpack::Managed* self) { delete static_cast<Owner*>(self); };
  owner->view = {.data = tensor.data,
                 .device = {dlpack::kCpu, 0},
                 .ndim = tensor.ndim(),
                 .type = dlpack_type(tensor.dtype),
                 .shape = &owner->shape[0],
                 .strides = &owner->strides[0],
                 .byte_offset = 0};
  owner->memory = std::move(memory);
  void* object;
  if (library->object_from_managed(owner.get(), &object) != 0) throw py::error_already_set();
  owner.release();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

// Needs no GIL: the library tells of errors by a function of ours.
DeviceMemory device_allocate(const Device& device, DType dtype, const Shape& shape) {
  Shape sizes = shape;
  dlpack::View prototype{.data = nullptr,
                         .device = {dlpack::kCuda, device.index},
                         .ndim = shape.ndim(),
                         .type = dlpack_type(dtype),
                         .shape = &sizes[0],
                         .strides = nullptr,
                         .byte_offset = 0};
  dlpack::Managed* managed = nullptr;
  std::string error;
  const auto set_error = [](void* context, const char* kind, const char* text) {
    *static_cast<std::string*>(context) = std::string(kind) + ": " + text;
  };
  if (static_cast<Library>(device.library)->allocate(&prototype, &managed, &error, set_error) !=
      0) {
    throw std::runtime_error(error);
  }
  return {static_cast<char*>(managed->view.data) + managed->view.byte_offset, managed};
}

// The same memory for NumPy, whatever the elements mean.
py::array bytes_view(const Array& array) {
  std::vector<py::ssize_t> strides(array.strides, array.strides + array.ndim);
  for (py::ssize_t& stride : strides) stride *= array.stride_unit;
  return py::array(py::dtype("V" + std::to_string(array.itemsize)),
                   std::vector<py::ssize_t>(array.shape, array.shape + array.ndim), strides,
                   array.data, array.object);
}

// Images in the other layout.
Array relaid(const char* op, Name name, const Array& array, void (*relay)(Output&, const Tensor&)) {
  Output y(*array.dtype);
  {
    const py::gil_scoped_release release;
    relay(y, array.tensor());
  }
  const Tensor copy = y.tensor();
  y.disown();
  return as_array(op, name, new_array(array.library, copy, y.bytes()));
}

}  // namespace

dlpack::ElementType dlpack_type(DType dtype) {
  constexpr uint8_t codes[] = {dlpack::kFloat, dlpack::kFloat, dlpack::kBfloat, dlpack::kFloat,
                               dlpack::kInt,   dlpack::kUint,  dlpack::kBool};
  return {codes[static_cast<int>(dtype)], static_cast<uint8_t>(8 * dtype_size(dtype)), 1};
}

bool is_array(py::handle object) {
  return py::isinstance<py::array>(object) || exchange_api(object);
}

Array as_array(const char* op, Name name, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    if (const Library library = exchange_api(object)) {
      return library_array(op, name, object, library);
    }
    const auto numpy = py::module_::import("numpy");
    check_type(py::isinstance(object, numpy.attr("generic")), op, name,
               " must be a NumPy array, got ", TypeName{object}, "; convert it with np.asarray");
    return numpy_array(numpy.attr("asarray")(object));
  }
  static const py::handle ndarray =
      py::object(py::module_::import("numpy").attr("ndarray")).release();
  if (!py::type::handle_of(object).is(ndarray)) {
    check_type(!py::isinstance(object, py::module_::import("numpy.ma").attr("MaskedArray")), op,
               name, " is a masked array; fill it with .filled(value) first");
  }
  return numpy_array(py::reinterpret_borrow<py::array>(object));
}

Array plain_copy(const char* op, Name name, const Array& array, DType dtype) {
  if (array.channels_last && array.device == kHost && array.dtype == dtype && array.kind == 'f') {
    return relaid(op, name, array, &ops::to_channels_first);
  }
  if (!array.library) {
    return numpy_array(py::module_::import("numpy").attr("array")(
        array.object, py::dtype(type_number(dtype)), py::arg("order") = "C"));
  }
  if (array.library == cupy::library()) return as_array(op, name, cupy::copy(array, dtype));
  py::object copy = array.object.attr("detach")().attr("resolve_neg")();
  if (array.dtype != dtype) {
    copy = copy.attr("to")(py::module_::import("torch").attr(dtype_name(dtype)));
  }
  return as_array(op, name, copy.attr("contiguous")());
}

Array channels_last_copy(const char* op, Name name, const Array& array) {
  if (array.plain && array.device == kHost) {
    return relaid(op, name, array, &ops::to_channels_last);
  }
  const py::object copy = array.object.attr("detach")().attr("resolve_neg")();
  const auto layout = py::module_::import("torch").attr("channels_last");
  return as_array(op, name, copy.attr("contiguous")(py::arg("memory_format") = layout));
}

void copy_back(const Array& target, const Array& source) {
  if (target.library == cupy::library()) {
    cupy::copy_back(target, source);
  } else if (target.library) {
    target.object.attr("detach")().attr("copy_")(source.object);
  } else {
    py::module_::import("numpy").attr("copyto")(target.object, source.object);
  }
}

std::pair<uintptr_t, uintptr_t> Array::byte_bounds() const {
  auto low = reinterpret_cast<uintptr_t>(data), high = low;
  for (int i = 0; i < ndim; ++i) {
    if (shape[i] == 0) return {low, low};
    const int64_t extent = (shape[i] - 1) * strides[i] * stride_unit;
    (extent < 0 ? low : high) += static_cast<uintptr_t>(extent);
  }
  return {low, high + static_cast<uintptr_t>(itemsize)};
}

bool share_memory(const Array& a, const Array& b) {
  const auto [a_low, a_high] = a.byte_bounds();
  const auto [b_low, b_high] = b.byte_bounds();
  if (a_low >= b_high || b_low >= a_high) return false;
  return py::module_::import("numpy")
      .attr("shares_memory")(bytes_view(a), bytes_view(b))
      .cast<bool>();
}

py::object new_array(Library library, const Tensor& tensor, size_t bytes) {
  auto memory = std::make_unique<PoolMemory>(tensor.data, bytes);
  if (library) return library_array_of(library, tensor, std::move(memory));
  const py::capsule owner(memory.release(), [](void* p) { delete static_cast<PoolMemory*>(p); });
  return py::array(py::dtype(type_number(tensor.dtype)),
                   std::vector<py::ssize_t>(tensor.shape.begin(), tensor.shape.end()), tensor.data,
                   owner);
}

Library library_of(py::type array_type) {
  return exchange_api_of(reinterpret_cast<PyTypeObject*>(array_type.ptr()));
}

Device device_of(Library library, int index) {
  Device device{index, nullptr, library, &device_allocate, &device_release};
  if (library->current_stream(dlpack::kCuda, index, &device.stream) != 0) {
    throw py::error_already_set();
  }
  return device;
}

py::object new_device_array(Library library, const Tensor& tensor, void* owner) {
  void* object;
  if (library->object_from_managed(static_cast<dlpack::Managed*>(owner), &object) != 0) {
    throw py::error_already_set();
  }
  const auto array = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  return tensor.channels_last ? array.attr("permute")(0, 3, 1, 2) : array;
}

}  // namespace fastdl::bindings
