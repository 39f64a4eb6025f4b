#include "ops/adaptive_avg_pool2d.h"

#include "bindings/call.h"
#include "bindings/pool_options.h"

namespace fastdl::bindings {
namespace {

py::array adaptive_avg_pool2d_forward(py::object x, py::object output_size, py::object out) {
  Call call("adaptive_avg_pool2d");
  const ops::AdaptiveSize size = adaptive_size("adaptive_avg_pool2d", output_size);
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  Output& y = call.output(out);
  call.run([&] { ops::adaptive_avg_pool2d_forward(y, x_, size); });
  return call.result(y);
}

py::array adaptive_avg_pool2d_backward(py::object dy, py::object input_size, bool channels_last) {
  Call call("adaptive_avg_pool2d_backward");
  const Shape size = to_shape("adaptive_avg_pool2d_backward", "input_size", input_size);
  const Tensor& dy_ = call.images("dy", dy, channels_last);
  Output& dx = call.output();
  call.run([&] { ops::adaptive_avg_pool2d_backward(dx, dy_, size); });
  return call.result(dx);
}

}  // namespace

void bind_adaptive_avg_pool2d(py::module_& m) {
  m.def("adaptive_avg_pool2d_forward", adaptive_avg_pool2d_forward, py::arg("x"),
        py::arg("output_size"), py::arg("out") = py::none());
  m.def("adaptive_avg_pool2d_backward", adaptive_avg_pool2d_backward, py::arg("dy"),
        py::arg("input_size"), py::arg("channels_last") = false);
}

}  // namespace fastdl::bindings
