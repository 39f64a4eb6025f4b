#include "ops/linear.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/call.h"
#include "bindings/native_products.h"

namespace fastdl::bindings {
namespace {

py::array forward(py::object x, py::object weight, py::object bias,
                  const std::optional<std::string>& activation, py::object residual, py::object out,
                  py::object packed) {
  Call call("linear", native_products());
  const Tensor &x_ = call.input("x", x), &weight_ = call.input("weight", weight);
  const Tensor* bias_ = call.optional_input("bias", bias);
  const Tensor* residual_ = call.optional_input("residual", residual);
  const Tensor* packed_ = call.optional_input("packed", packed);
  Output& y = call.output(out);
  call.run([&] {
    ops::linear_forward(y, x_, weight_, packed_, bias_,
                        ops::epilogue_options("linear", activation, residual_));
  });
  return call.result(y);
}

py::array pack_weight(py::object weight) {
  Call call("pack_linear_weight");
  const Tensor& weight_ = call.input("weight", weight);
  Output& packed = call.output();
  call.run([&] { ops::pack_linear_weight(packed, weight_); });
  return call.result(packed);
}

py::tuple backward(py::object dy, py::object x, py::object weight,
                   const std::array<bool, 3>& output_mask) {
  Call call("linear_backward", native_products());
  const Tensor& dy_ = call.input("dy", dy);
  const Tensor &x_ = call.input("x", x), &weight_ = call.input("weight", weight);
  Output &dx = call.output(), &dweight = call.output(), &dbias = call.output();
  const auto wanted = [&](int i, Output& output) { return output_mask[i] ? &output : nullptr; };
  call.run([&] {
    ops::linear_backward(wanted(0, dx), wanted(1, dweight), wanted(2, dbias), dy_, x_, weight_);
  });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dweight),
                        call.optional_result(dbias));
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def("linear_forward", &forward, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("activation") = py::none(), py::arg("residual") = py::none(),
        py::arg("out") = py::none(), py::arg("packed") = py::none());
  m.def("pack_linear_weight", &pack_weight, py::arg("weight"));
  m.def("linear_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("weight"),
        py::arg("output_mask"));
}

}  // namespace fastdl::bindings
