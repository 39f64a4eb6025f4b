// What the ops on lists of arrays (the optimisers) share.
#pragma once

#include <variant>

#include "core/tensor.h"

namespace fastdl::ops {

// The count of this step, from 1: of all params, or of each.
using Steps = std::variant<int64_t, std::vector<int64_t>>;

inline std::vector<int64_t> steps_of_each(const char* op, const Steps& steps,
                                          const TensorList& params) {
  const auto* each = std::get_if<std::vector<int64_t>>(&steps);
  const auto counts = each ? *each : std::vector<int64_t>(params.size(), std::get<int64_t>(steps));
  check(counts.size() == params.size(), op, "step holds ", counts.size(), " counts, params holds ",
        params.size(), " arrays");
  for (const int64_t count : counts) check(count >= 1, op, "step counts from 1, got ", count);
  return counts;
}

// What a step reads on the device its arrays lie on, so that the host need not wait for it; null
// where the host has it, or there is none.
struct DeviceScalars {
  const TensorList* counts = nullptr;  // the steps of each parameter so far
  const Tensor* lr = nullptr;
  const Tensor* found_inf = nullptr;   // not 0: no step is made
  const Tensor* grad_scale = nullptr;  // divides the gradients, which stay divided
};

// list[i] goes with params[i]: as many, of the same shapes, of the same dtypes or float32 beside a
// 16-bit parameter.
inline void check_matches_params(const char* op, const char* name, const TensorList& list,
                                 const TensorList& params) {
  check(list.size() == params.size(), op, name, " holds ", list.size(), " arrays, params holds ",
        params.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const Tensor &tensor = *list[i], &param = *params[i];
    check_type(goes_with(tensor, param), op, name, '[', i, "] is ", tensor.stored, ", params[", i,
               "] is ", param.stored);
    check(tensor.shape == param.shape, op, name, '[', i, "] must have shape ", param.shape,
          ", got ", tensor.shape);
  }
}

// NaN is refused too.
inline void check_not_negative(const char* op, const char* name, double value) {
  check(value >= 0, op, name, " must be at least 0, got ", value);
}

inline int64_t total_numel(const TensorList& list) {
  int64_t total = 0;
  for (const Tensor* tensor : list) total += tensor->numel();
  return total;
}

inline int64_t total_bytes(const TensorList& list) {
  int64_t total = 0;
  for (const Tensor* tensor : list) {
    total += tensor->numel() * static_cast<int64_t>(dtype_size(tensor->dtype));
  }
  return total;
}

// Items of the params of type T, in kernels/tensor_list.h's form: make(i) fills in all but the
// place.
template <typename T, typename Make>
auto items_of(const TensorList& params, Make&& make) {
  std::vector<decltype(make(size_t{}))> items;
  int64_t start = 0;
  for (size_t i = 0; i < params.size(); ++i) {
    const int64_t size = params[i]->numel();
    if (params[i]->dtype != dtype_of<T> || size == 0) continue;
    items.push_back(make(i));
    items.back().start = start;
    items.back().size = size;
    start += size;
  }
  return items;
}

}  // namespace fastdl::ops
