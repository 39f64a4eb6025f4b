#include "ops/avg_pool2d.h"

#include "bindings/call.h"
#include "bindings/pool_options.h"

namespace fastdl::bindings {
namespace {

ops::AvgPoolOptions options(const char* op, py::handle kernel_size, py::handle stride,
                            py::handle padding, bool ceil_mode, bool count_include_pad,
                            py::handle divisor_override) {
  ops::AvgPoolOptions o{pool_options(op, kernel_size, stride, padding, ceil_mode),
                        count_include_pad, std::nullopt};
  if (!divisor_override.is_none()) {
    o.divisor_override = to_int(op, "divisor_override", "an int or None", divisor_override);
  }
  return o;
}

py::array avg_pool2d_forward(py::object x, py::object kernel_size, py::object stride,
                             py::object padding, bool ceil_mode, bool count_include_pad,
                             py::object divisor_override, py::object out) {
  const char* op = "avg_pool2d";
  Call call(op);
  const auto o =
      options(op, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override);
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  Output& y = call.output(out);
  call.run([&] { ops::avg_pool2d_forward(y, x_, o); });
  return call.result(y);
}

py::array avg_pool2d_backward(py::object dy, py::object input_size, py::object kernel_size,
                              py::object stride, py::object padding, bool ceil_mode,
                              bool count_include_pad, py::object divisor_override,
                              bool channels_last) {
  const char* op = "avg_pool2d_backward";
  Call call(op);
  const auto o =
      options(op, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override);
  const Shape size = to_shape(op, "input_size", input_size);
  const Tensor& dy_ = call.images("dy", dy, channels_last);
  Output& dx = call.output();
  call.run([&] { ops::avg_pool2d_backward(dx, dy_, size, o); });
  return call.result(dx);
}

}  // namespace

void bind_avg_pool2d(py::module_& m) {
  m.def("avg_pool2d_forward", avg_pool2d_forward, py::arg("x"), py::arg("kernel_size"),
        py::arg("stride"), py::arg("padding"), py::arg("ceil_mode"), py::arg("count_include_pad"),
        py::arg("divisor_override"), py::arg("out") = py::none());
  m.def("avg_pool2d_backward", avg_pool2d_backward, py::arg("dy"), py::arg("input_size"),
        py::arg("kernel_size"), py::arg("stride"), py::arg("padding"), py::arg("ceil_mode"),
        py::arg("count_include_pad"), py::arg("divisor_override"),
        py::arg("channels_last") = false);
}

}  // namespace fastdl::bindings
