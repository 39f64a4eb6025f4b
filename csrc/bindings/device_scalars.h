// What an optimiser's step reads where its arrays lie: arrays of one number, or None.
#pragma once

#include "bindings/call.h"
#include "ops/tensor_list.h"

namespace fastdl::bindings {

inline const Tensor* device_scalar(Call& call, const char* op, const char* name,
                                   py::handle object) {
  if (object.is_none()) return nullptr;
  check(call.on_device(), op, name, " is for arrays of a device");
  const Tensor& scalar = call.input(name, object);
  check_type(scalar.dtype == DType::float32, op, name, " must be float32, got ", scalar.stored);
  check(scalar.numel() == 1, op, name, " must have one element, got shape ", scalar.shape);
  return &scalar;
}

inline ops::DeviceScalars device_scalars(Call& call, const char* op, py::handle lr,
                                         py::handle found_inf, py::handle grad_scale) {
  return {.counts = nullptr,
          .lr = device_scalar(call, op, "device_lr", lr),
          .found_inf = device_scalar(call, op, "found_inf", found_inf),
          .grad_scale = device_scalar(call, op, "grad_scale", grad_scale)};
}

}  // namespace fastdl::bindings
