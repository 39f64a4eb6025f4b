#include "ops/adam.h"

#include <pybind11/stl.h>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

void adam_step(py::object params, py::object grads, py::object exp_avgs, py::object exp_avg_sqs,
               py::object max_exp_avg_sqs, const ops::Steps& step, double lr, double beta1,
               double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
               py::object master_params) {
  Call call("adam_step");
  const TensorList params_ = call.inouts("params", params, "master_params", master_params),
                   grads_ = call.inputs("grads", grads),
                   exp_avgs_ = call.inouts("exp_avgs", exp_avgs),
                   exp_avg_sqs_ = call.inouts("exp_avg_sqs", exp_avg_sqs);
  const bool amsgrad = !max_exp_avg_sqs.is_none();
  const TensorList maxima =
      amsgrad ? call.inouts("max_exp_avg_sqs", max_exp_avg_sqs) : TensorList();
  call.run([&] {
    ops::adam_step(params_, grads_, exp_avgs_, exp_avg_sqs_, amsgrad ? &maxima : nullptr, step,
                   {lr, beta1, beta2, eps, weight_decay, decoupled, maximize});
  });
}

}  // namespace

void bind_adam(py::module_& m) {
  m.def("adam_step", &adam_step, py::arg("params"), py::arg("grads"), py::arg("exp_avgs"),
        py::arg("exp_avg_sqs"), py::arg("max_exp_avg_sqs"), py::arg("step"), py::arg("lr"),
        py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
        py::arg("decoupled"), py::arg("maximize"), py::arg("master_params") = py::none());
}

}  // namespace fastdl::bindings
