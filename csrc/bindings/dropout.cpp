#include "ops/dropout.h"

#include "bindings/rng_state.h"

namespace fastdl::bindings {
namespace {

py::tuple dropout_forward(py::object x, double p, bool training, bool inplace, py::object out) {
  Call call("dropout");
  check(!inplace || out.is_none(), "dropout", "out makes no sense with inplace");
  Output& y = inplace ? call.inplace_output("x", x) : call.output(out);
  const Tensor& x_ = inplace ? y.tensor() : call.input("x", x);
  RngState state;
  call.run([&] { state = ops::dropout_forward(y, x_, p, training); });
  return py::make_tuple(call.result(y), State(state.seed, state.offset));
}

py::array dropout_backward(py::object dy, double p, py::object rng_state) {
  Call call("dropout_backward");
  const Tensor& dy_ = call.input("dy", dy);
  const RngState state = rng_state_of(call, "dropout_backward", rng_state);
  Output& dx = call.output();
  call.run([&] { ops::dropout_backward(dx, dy_, p, state); });
  return call.result(dx);
}

}  // namespace

void bind_dropout(py::module_& m) {
  m.def("dropout_forward", &dropout_forward, py::arg("x"), py::arg("p"), py::arg("training") = true,
        py::arg("inplace") = false, py::arg("out") = py::none());
  m.def("dropout_backward", &dropout_backward, py::arg("dy"), py::arg("p"), py::arg("rng_state"));
}

}  // namespace fastdl::bindings
