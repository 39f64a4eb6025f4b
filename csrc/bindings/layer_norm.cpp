#include "ops/layer_norm.h"

#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

Shape as_shape(const std::vector<int64_t>& dims) { return Shape(dims.begin(), dims.end()); }

py::tuple forward(py::object x, const std::vector<int64_t>& normalized_shape, py::object weight,
                  py::object bias, double eps, py::object out) {
  Call call("layer_norm");
  const Tensor& x_ = call.input("x", x);
  const Tensor *weight_ = call.optional_input("weight", weight),
               *bias_ = call.optional_input("bias", bias);
  Output &y = call.output(out), &mean = call.statistic(), &rstd = call.statistic();
  call.run([&] {
    ops::layer_norm_forward(y, mean, rstd, x_, as_shape(normalized_shape), weight_, bias_, eps);
  });
  return py::make_tuple(call.result(y), call.result(mean), call.result(rstd));
}

py::tuple backward(py::object dy, py::object x, const std::vector<int64_t>& normalized_shape,
                   py::object mean, py::object rstd, py::object weight,
                   const std::array<bool, 3>& output_mask) {
  Call call("layer_norm_backward");
  const Tensor &dy_ = call.input("dy", dy), &x_ = call.input("x", x);
  const Tensor &mean_ = call.input("mean", mean), &rstd_ = call.input("rstd", rstd);
  const Tensor* weight_ = call.optional_input("weight", weight);
  Output& dx = call.output();
  const Tensor& parameter = weight_ ? *weight_ : x_;  // weight and bias have one dtype
  Output &dweight = call.output_like(parameter), &dbias = call.output_like(parameter);
  const auto wanted = [&](int i, Output& output) { return output_mask[i] ? &output : nullptr; };
  call.run([&] {
    ops::layer_norm_backward(wanted(0, dx), wanted(1, dweight), wanted(2, dbias), dy_, x_,
                             as_shape(normalized_shape), mean_, rstd_, weight_);
  });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dweight),
                        call.optional_result(dbias));
}

}  // namespace

void bind_layer_norm(py::module_& m) {
  m.def("layer_norm_forward", &forward, py::arg("x"), py::arg("normalized_shape"),
        py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("out") = py::none());
  m.def("layer_norm_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("normalized_shape"),
        py::arg("mean"), py::arg("rstd"), py::arg("weight"), py::arg("output_mask"));
}

}  // namespace fastdl::bindings
