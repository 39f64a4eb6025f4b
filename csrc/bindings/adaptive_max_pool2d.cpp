#include "ops/adaptive_max_pool2d.h"

#include "bindings/call.h"
#include "bindings/pool_options.h"

namespace fastdl::bindings {
namespace {

py::array adaptive_max_pool2d(py::object x, py::object output_size) {
  Call call("adaptive_max_pool2d");
  const ops::AdaptiveSize size = adaptive_size("adaptive_max_pool2d", output_size);
  const Tensor& x_ = call.images("x", x);
  Output& y = call.output();
  call.run([&] { ops::adaptive_max_pool2d_forward({y}, x_, size); });
  return call.result(y);
}

py::typing::Tuple<py::array, py::array> adaptive_max_pool2d_forward(py::object x,
                                                                    py::object output_size) {
  Call call("adaptive_max_pool2d");
  const ops::AdaptiveSize size = adaptive_size("adaptive_max_pool2d", output_size);
  const Tensor& x_ = call.images("x", x);
  Output &y = call.output(), &indices = call.output();
  call.run([&] { ops::adaptive_max_pool2d_forward({y, &indices}, x_, size); });
  return py::make_tuple(call.result(y), call.result(indices));
}

// y, and what its gradient needs: codes where there are some, or indices.
py::typing::Tuple<py::array, py::array> adaptive_max_pool2d_saved(py::object x,
                                                                  py::object output_size) {
  Call call("adaptive_max_pool2d");
  const ops::AdaptiveSize size = adaptive_size("adaptive_max_pool2d", output_size);
  const Tensor& x_ = call.images("x", x);
  Output &y = call.output(), &indices = call.output(), &codes = call.output();
  call.run([&] { ops::adaptive_max_pool2d_forward({y, &indices, &codes}, x_, size); });
  return py::make_tuple(call.result(y), call.result(codes.made() ? codes : indices));
}

py::array adaptive_max_pool2d_backward_codes(py::object dy, py::object codes, py::object input_size,
                                             bool channels_last) {
  Call call("adaptive_max_pool2d_backward");
  const Shape size = to_shape("adaptive_max_pool2d_backward", "input_size", input_size);
  const Tensor &dy_ = call.images("dy", dy, channels_last),
               &codes_ = call.code_input("codes", codes);
  Output& dx = call.output();
  call.run([&] { ops::adaptive_max_pool2d_backward_codes(dx, dy_, codes_, size); });
  return call.result(dx);
}

py::array adaptive_max_pool2d_backward(py::object dy, py::object indices, py::object input_size,
                                       bool channels_last) {
  Call call("adaptive_max_pool2d_backward");
  const Shape size = to_shape("adaptive_max_pool2d_backward", "input_size", input_size);
  const Tensor &dy_ = call.images("dy", dy, channels_last),
               &indices_ = call.index_input("indices", indices);
  Output& dx = call.output();
  call.run([&] { ops::adaptive_max_pool2d_backward(dx, dy_, indices_, size); });
  return call.result(dx);
}

}  // namespace

void bind_adaptive_max_pool2d(py::module_& m) {
  m.def("adaptive_max_pool2d", adaptive_max_pool2d, py::arg("x"), py::arg("output_size"));
  m.def("adaptive_max_pool2d_forward", adaptive_max_pool2d_forward, py::arg("x"),
        py::arg("output_size"));
  m.def("adaptive_max_pool2d_saved", adaptive_max_pool2d_saved, py::arg("x"),
        py::arg("output_size"));
  m.def("adaptive_max_pool2d_backward_codes", adaptive_max_pool2d_backward_codes, py::arg("dy"),
        py::arg("codes"), py::arg("input_size"), py::arg("channels_last") = false);
  m.def("adaptive_max_pool2d_backward", adaptive_max_pool2d_backward, py::arg("dy"),
        py::arg("indices"), py::arg("input_size"), py::arg("channels_last") = false);
}

}  // namespace fastdl::bindings
