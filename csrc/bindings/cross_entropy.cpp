#include "ops/cross_entropy.h"

#include <pybind11/stl.h>

#include <array>
#include <string>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

// Class indices, or probabilities if the array is a floating one.
const Tensor& add_target(Call& call, py::handle target) {
  return holds_floats(target) ? call.input("target", target) : call.index_input("target", target);
}

py::array forward(py::object x, py::object target, py::object weight, int64_t ignore_index,
                  const std::string& reduction, double label_smoothing) {
  Call call("cross_entropy");
  const Tensor &x_ = call.input("x", x), &target_ = add_target(call, target);
  const Tensor* weight_ = call.optional_input("weight", weight);
  Output& loss = call.output();
  call.run([&] {
    ops::cross_entropy_forward(loss, x_, target_, weight_, ignore_index, reduction,
                               label_smoothing);
  });
  return call.result(loss);
}

py::tuple backward(py::object dy, py::object x, py::object target, py::object weight,
                   int64_t ignore_index, const std::string& reduction, double label_smoothing,
                   const std::array<bool, 2>& output_mask) {
  Call call("cross_entropy_backward");
  const Tensor &dy_ = call.input("dy", dy), &x_ = call.input("x", x);
  const Tensor& target_ = add_target(call, target);
  const Tensor* weight_ = call.optional_input("weight", weight);
  Output &dx = call.output(), &dtarget = call.output();
  call.run([&] {
    ops::cross_entropy_backward(output_mask[0] ? &dx : nullptr, output_mask[1] ? &dtarget : nullptr,
                                dy_, x_, target_, weight_, ignore_index, reduction,
                                label_smoothing);
  });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dtarget));
}

}  // namespace

void bind_cross_entropy(py::module_& m) {
  m.def("cross_entropy_forward", &forward, py::arg("x"), py::arg("target"), py::arg("weight"),
        py::arg("ignore_index"), py::arg("reduction"), py::arg("label_smoothing"));
  m.def("cross_entropy_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("target"),
        py::arg("weight"), py::arg("ignore_index"), py::arg("reduction"),
        py::arg("label_smoothing"), py::arg("output_mask"));
}

}  // namespace fastdl::bindings
