#include "ops/nll_loss.h"

#include <string>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

py::array forward(py::object x, py::object target, py::object weight, int64_t ignore_index,
                  const std::string& reduction) {
  Call call("nll_loss");
  const Tensor &x_ = call.input("x", x), &target_ = call.index_input("target", target);
  const Tensor* weight_ = call.optional_input("weight", weight);
  Output& loss = call.output();
  call.run([&] { ops::nll_loss_forward(loss, x_, target_, weight_, ignore_index, reduction); });
  return call.result(loss);
}

py::array backward(py::object dy, py::object x, py::object target, py::object weight,
                   int64_t ignore_index, const std::string& reduction) {
  Call call("nll_loss_backward");
  const Tensor &dy_ = call.input("dy", dy), &x_ = call.input("x", x);
  const Tensor& target_ = call.index_input("target", target);
  const Tensor* weight_ = call.optional_input("weight", weight);
  Output& dx = call.output();
  call.run([&] { ops::nll_loss_backward(dx, dy_, x_, target_, weight_, ignore_index, reduction); });
  return call.result(dx);
}

}  // namespace

void bind_nll_loss(py::module_& m) {
  m.def("nll_loss_forward", &forward, py::arg("x"), py::arg("target"), py::arg("weight"),
        py::arg("ignore_index"), py::arg("reduction"));
  m.def("nll_loss_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("target"),
        py::arg("weight"), py::arg("ignore_index"), py::arg("reduction"));
}

}  // namespace fastdl::bindings
