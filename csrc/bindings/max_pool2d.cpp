#include "ops/max_pool2d.h"

#include "bindings/call.h"
#include "bindings/pool_options.h"

namespace fastdl::bindings {
namespace {

ops::PoolOptions options(py::handle kernel_size, py::handle stride, py::handle padding,
                         py::handle dilation, bool ceil_mode) {
  ops::PoolOptions o = pool_options("max_pool2d", kernel_size, stride, padding, ceil_mode);
  o.dilation = to_pair("max_pool2d", "dilation", dilation);
  return o;
}

py::array max_pool2d(py::object x, py::object kernel_size, py::object stride, py::object padding,
                     py::object dilation, bool ceil_mode, py::object out) {
  Call call("max_pool2d");
  const ops::PoolOptions o = options(kernel_size, stride, padding, dilation, ceil_mode);
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  Output& y = call.output(out);
  call.run([&] { ops::max_pool2d_forward({y}, x_, o); });
  return call.result(y);
}

py::typing::Tuple<py::array, py::array> max_pool2d_forward(py::object x, py::object kernel_size,
                                                           py::object stride, py::object padding,
                                                           py::object dilation, bool ceil_mode,
                                                           py::object out) {
  Call call("max_pool2d");
  const ops::PoolOptions o = options(kernel_size, stride, padding, dilation, ceil_mode);
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  Output &y = call.output(out), &indices = call.output();
  call.run([&] { ops::max_pool2d_forward({y, &indices}, x_, o); });
  return py::make_tuple(call.result(y), call.result(indices));
}

// y, and what its gradient needs: codes where there are some, or indices.
py::typing::Tuple<py::array, py::array> max_pool2d_saved(py::object x, py::object kernel_size,
                                                         py::object stride, py::object padding,
                                                         py::object dilation, bool ceil_mode) {
  Call call("max_pool2d");
  const ops::PoolOptions o = options(kernel_size, stride, padding, dilation, ceil_mode);
  const Tensor& x_ = call.images("x", x);
  Output &y = call.output(), &indices = call.output(), &codes = call.output();
  call.run([&] { ops::max_pool2d_forward({y, &indices, &codes}, x_, o); });
  return py::make_tuple(call.result(y), call.result(codes.made() ? codes : indices));
}

py::array max_pool2d_backward_codes(py::object dy, py::object codes, py::object input_size,
                                    py::object kernel_size, py::object stride, py::object padding,
                                    py::object dilation, bool ceil_mode, bool channels_last) {
  Call call("max_pool2d_backward");
  const ops::PoolOptions o = options(kernel_size, stride, padding, dilation, ceil_mode);
  const Shape size = to_shape("max_pool2d_backward", "input_size", input_size);
  const Tensor &dy_ = call.images("dy", dy, channels_last),
               &codes_ = call.code_input("codes", codes);
  Output& dx = call.output();
  call.run([&] { ops::max_pool2d_backward_codes(dx, dy_, codes_, size, o); });
  return call.result(dx);
}

py::array max_pool2d_backward(py::object dy, py::object indices, py::object input_size,
                              bool channels_last) {
  Call call("max_pool2d_backward");
  const Shape size = to_shape("max_pool2d_backward", "input_size", input_size);
  const Tensor &dy_ = call.images("dy", dy, channels_last),
               &indices_ = call.index_input("indices", indices);
  Output& dx = call.output();
  call.run([&] { ops::max_pool2d_backward(dx, dy_, indices_, size); });
  return call.result(dx);
}

}  // namespace

void bind_max_pool2d(py::module_& m) {
  m.def("max_pool2d", max_pool2d, py::arg("x"), py::arg("kernel_size"), py::arg("stride"),
        py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"), py::arg("out") = py::none());
  m.def("max_pool2d_forward", max_pool2d_forward, py::arg("x"), py::arg("kernel_size"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"),
        py::arg("out") = py::none());
  m.def("max_pool2d_saved", max_pool2d_saved, py::arg("x"), py::arg("kernel_size"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("ceil_mode"));
  m.def("max_pool2d_backward_codes", max_pool2d_backward_codes, py::arg("dy"), py::arg("codes"),
        py::arg("input_size"), py::arg("kernel_size"), py::arg("stride"), py::arg("padding"),
        py::arg("dilation"), py::arg("ceil_mode"), py::arg("channels_last") = false);
  m.def("max_pool2d_backward", max_pool2d_backward, py::arg("dy"), py::arg("indices"),
        py::arg("input_size"), py::arg("channels_last") = false);
}

}  // namespace fastdl::bindings
