#include "ops/activations.h"

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

template <typename... Parameters>
auto forward(const char* name, void (*op)(Output&, const Tensor&, Parameters...)) {
  return [=](py::object x, Parameters... parameters, bool inplace, py::object out) {
    Call call(name, kBothHalves);
    check(!inplace || out.is_none(), name, "out makes no sense with inplace");
    const Tensor* x_ = inplace ? nullptr : &call.input("x", x);
    Output& y = inplace ? call.inplace_output("x", x) : call.output(out);
    call.run([&] { op(y, x_ ? *x_ : y.tensor(), parameters...); });
    return call.result(y);
  };
}

template <typename... Parameters>
auto backward(const char* name, void (*op)(Output&, const Tensor&, const Tensor&, Parameters...),
              const char* saved) {
  return [=](py::object dy, py::object x, Parameters... parameters) {
    Call call(name, kBothHalves);
    const Tensor &dy_ = call.input("dy", dy), &x_ = call.input(saved, x);
    Output& dx = call.output();
    call.run([&] { op(dx, dy_, x_, parameters...); });
    return call.result(dx);
  };
}

}  // namespace

void bind_activations(py::module_& m) {
  const auto inplace = py::arg("inplace") = false;
  const auto out = py::arg("out") = py::none();
  m.def("relu_forward", forward("relu", ops::relu_forward), py::arg("x"), inplace, out);
  m.def("relu_backward", backward("relu_backward", ops::relu_backward, "x"), py::arg("dy"),
        py::arg("x"));
  m.def("relu6_forward", forward("relu6", ops::relu6_forward), py::arg("x"), inplace, out);
  m.def("relu6_backward", backward("relu6_backward", ops::relu6_backward, "x"), py::arg("dy"),
        py::arg("x"));
  m.def("leaky_relu_forward", forward("leaky_relu", ops::leaky_relu_forward), py::arg("x"),
        py::arg("negative_slope"), inplace, out);
  m.def("leaky_relu_backward", backward("leaky_relu_backward", ops::leaky_relu_backward, "x"),
        py::arg("dy"), py::arg("x"), py::arg("negative_slope"));
  m.def("elu_forward", forward("elu", ops::elu_forward), py::arg("x"), py::arg("alpha"), inplace,
        out);
  m.def("elu_backward", backward("elu_backward", ops::elu_backward, "x"), py::arg("dy"),
        py::arg("x"), py::arg("alpha"));
  m.def("sigmoid_forward", forward("sigmoid", ops::sigmoid_forward), py::arg("x"), inplace, out);
  m.def("sigmoid_backward", backward("sigmoid_backward", ops::sigmoid_backward, "y"), py::arg("dy"),
        py::arg("y"));
  m.def("tanh_forward", forward("tanh", ops::tanh_forward), py::arg("x"), inplace, out);
  m.def("tanh_backward", backward("tanh_backward", ops::tanh_backward, "y"), py::arg("dy"),
        py::arg("y"));
  m.def("silu_forward", forward("silu", ops::silu_forward), py::arg("x"), inplace, out);
  m.def("silu_backward", backward("silu_backward", ops::silu_backward, "x"), py::arg("dy"),
        py::arg("x"));
  m.def("gelu_forward", forward("gelu", ops::gelu_forward), py::arg("x"), py::arg("approximate"),
        inplace, out);
  m.def("gelu_backward", backward("gelu_backward", ops::gelu_backward, "x"), py::arg("dy"),
        py::arg("x"), py::arg("approximate"));
}

}  // namespace fastdl::bindings
