#include "ops/dropout.h"

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

using State = std::pair<uint64_t, uint64_t>;  // seed, offset

py::tuple dropout_forward(py::object x, double p, bool training, bool inplace, py::object out) {
  Call call("dropout");
  check(!inplace || out.is_none(), "dropout", "out makes no sense with inplace");
  Output& y = inplace ? call.inplace_output("x", x) : call.output(out);
  const Tensor& x_ = inplace ? y.tensor() : call.input("x", x);
  RngState state;
  call.run([&] { state = ops::dropout_forward(y, x_, p, training); });
  return py::make_tuple(call.result(y), State(state.seed, state.offset));
}

py::array dropout_backward(py::object dy, double p, State rng_state) {
  Call call("dropout_backward");
  const Tensor& dy_ = call.input("dy", dy);
  Output& dx = call.output();
  const RngState state{rng_state.first, rng_state.second};
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
