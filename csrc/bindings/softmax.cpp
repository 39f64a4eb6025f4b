#include "ops/softmax.h"

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

using Forward = void (*)(Output&, const Tensor&, int64_t);
using Backward = void (*)(Output&, const Tensor&, const Tensor&, int64_t);

auto forward(const char* name, Forward op) {
  return [=](py::object x, int64_t dim, py::object out) {
    Call call(name, kBothHalves);
    const Tensor& x_ = call.input("x", x);
    Output& y = call.output(out);
    call.run([&] { op(y, x_, dim); });
    return call.result(y);
  };
}

auto backward(const char* name, Backward op) {
  return [=](py::object dy, py::object y, int64_t dim) {
    Call call(name, kBothHalves);
    const Tensor &dy_ = call.input("dy", dy), &y_ = call.input("y", y);
    Output& dx = call.output();
    call.run([&] { op(dx, dy_, y_, dim); });
    return call.result(dx);
  };
}

}  // namespace

void bind_softmax(py::module_& m) {
  m.def("softmax_forward", forward("softmax", ops::softmax_forward), py::arg("x"), py::arg("dim"),
        py::arg("out") = py::none());
  m.def("softmax_backward", backward("softmax_backward", ops::softmax_backward), py::arg("dy"),
        py::arg("y"), py::arg("dim"));
  m.def("log_softmax_forward", forward("log_softmax", ops::log_softmax_forward), py::arg("x"),
        py::arg("dim"), py::arg("out") = py::none());
  m.def("log_softmax_backward", backward("log_softmax_backward", ops::log_softmax_backward),
        py::arg("dy"), py::arg("y"), py::arg("dim"));
}

}  // namespace fastdl::bindings
