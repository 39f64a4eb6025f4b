// The part of DLPack 1.x that we speak, declared after its specification
// (https://dmlc.github.io/dlpack/latest/c_api.html): how libraries hand over tensors in C. Memory
// layout and the meaning of the numbers are fixed by that document for all of major version 1.
#pragma once

#include <cstdint>

namespace fastdl::bindings::dlpack {

constexpr uint32_t kMajorVersion = 1, kMinorVersion = 0;

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3 };  // kCudaHost: pinned memory
enum TypeCode : uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kBool = 6 };

struct Device {
  int32_t type, index;
};

struct ElementType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct View {  // DLTensor
  void* data;
  Device device;
  int32_t ndim;
  ElementType type;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};

struct Version {
  uint32_t major, minor;
};

struct Managed {  // DLManagedTensorVersioned
  Version version;
  void* context;
  void (*deleter)(Managed* self);
  uint64_t flags;
  View view;
};

// What type(tensor).__dlpack_c_exchange_api__ points to. The functions return 0, or -1 with a
// Python error set.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  // Memory for a tensor of the prototype's device, type and shape; set_error tells what went wrong.
  int (*allocate)(View* prototype, Managed** out, void* error_context,
                  void (*set_error)(void* error_context, const char* kind, const char* text));
  int (*managed_from_object)(void* object, Managed** out);
  int (*object_from_managed)(Managed* tensor, void** out);
  int (*view_from_object)(void* object, View* out);  // borrows; may be absent
  int (*current_stream)(int32_t device_type, int32_t device_index, void** out);
};

}  // namespace fastdl::bindings::dlpack
