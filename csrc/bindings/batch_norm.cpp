#include "ops/batch_norm.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

py::tuple forward(py::object x, py::object running_mean, py::object running_var, py::object weight,
                  py::object bias, bool training, double momentum, double eps, py::object out) {
  Call call("batch_norm");
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  const auto running = [&](const char* name, py::object array) -> const Tensor* {
    return training && !array.is_none() ? &call.inout(name, array)
                                        : call.optional_input(name, array);
  };
  const Tensor *running_mean_ = running("running_mean", running_mean),
               *running_var_ = running("running_var", running_var);
  const Tensor *weight_ = call.optional_input("weight", weight),
               *bias_ = call.optional_input("bias", bias);
  Output &y = call.output(out), &mean = call.statistic(), &rstd = call.statistic();
  call.run([&] {
    ops::batch_norm_forward(y, mean, rstd, x_, running_mean_, running_var_, weight_, bias_,
                            training, momentum, eps);
  });
  return py::make_tuple(call.result(y), call.result(mean), call.result(rstd));
}

py::tuple backward(py::object dy, py::object x, py::object weight, py::object mean, py::object rstd,
                   bool training, const std::array<bool, 3>& output_mask) {
  Call call("batch_norm_backward");
  const Tensor &x_ = call.images("x", x), &dy_ = call.images("dy", dy, x_.channels_last);
  const Tensor* weight_ = call.optional_input("weight", weight);
  const Tensor &mean_ = call.input("mean", mean), &rstd_ = call.input("rstd", rstd);
  Output& dx = call.output();
  const Tensor& parameter = weight_ ? *weight_ : x_;  // weight and bias have one dtype
  Output &dweight = call.output_like(parameter), &dbias = call.output_like(parameter);
  const auto wanted = [&](int i, Output& output) { return output_mask[i] ? &output : nullptr; };
  call.run([&] {
    ops::batch_norm_backward(wanted(0, dx), wanted(1, dweight), wanted(2, dbias), dy_, x_, weight_,
                             mean_, rstd_, training);
  });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dweight),
                        call.optional_result(dbias));
}

}  // namespace

void bind_batch_norm(py::module_& m) {
  m.def("batch_norm_forward", &forward, py::arg("x"), py::arg("running_mean"),
        py::arg("running_var"), py::arg("weight"), py::arg("bias"), py::arg("training"),
        py::arg("momentum"), py::arg("eps"), py::arg("out") = py::none());
  m.def("batch_norm_backward", &backward, py::arg("dy"), py::arg("x"), py::arg("weight"),
        py::arg("mean"), py::arg("rstd"), py::arg("training"), py::arg("output_mask"));
}

}  // namespace fastdl::bindings
