#include "ops/matmul.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/call.h"
#include "bindings/native_products.h"

namespace fastdl::bindings {
namespace {

py::array forward(py::object x, py::object other, py::object out, py::object bias) {
  Call call("matmul", native_products());
  const Tensor &x_ = call.input("x", x), &other_ = call.input("other", other);
  const Tensor* bias_ = call.optional_input("bias", bias);
  Output& y = call.output(out);
  call.run([&] { ops::matmul_forward(y, x_, other_, bias_); });
  return call.result(y);
}

py::tuple backward(py::object dy, py::object x, py::object other,
                   const std::array<bool, 2>& output_mask) {
  Call call("matmul_backward", native_products());
  const Tensor& dy_ = call.input("dy", dy);
  const Tensor &x_ = call.input("x", x), &other_ = call.input("other", other);
  Output &dx = call.output(), &dother = call.output();
  call.run([&] {
    ops::matmul_backward(output_mask[0] ? &dx : nullptr, output_mask[1] ? &dother : nullptr, dy_,
                         x_, other_);
  });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dother));
}

}  // namespace

void bind_matmul(py::module_& m) {
  m.def("matmul_forward", &forward, py::arg("x"), py::arg("other"), py::arg("out") = py::none(),
        py::arg("bias") = py::none());
  m.def("matmul_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("other"),
        py::arg("output_mask"));
}

}  // namespace fastdl::bindings
