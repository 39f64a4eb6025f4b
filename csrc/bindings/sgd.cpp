#include "ops/sgd.h"

#include <pybind11/stl.h>

#include "bindings/device_scalars.h"

namespace fastdl::bindings {
namespace {

void sgd_step(py::object params, py::object grads, py::object momentum_buffers,
              const ops::Steps& step, double lr, double momentum, double dampening,
              double weight_decay, bool nesterov, bool maximize, py::object master_params,
              py::object device_lr, py::object found_inf, py::object grad_scale) {
  Call call("sgd_step");
  const TensorList params_ = call.inouts("params", params, "master_params", master_params),
                   grads_ = call.inputs("grads", grads);
  const bool has_buffers = !momentum_buffers.is_none();
  const TensorList buffers =
      has_buffers ? call.inouts("momentum_buffers", momentum_buffers) : TensorList();
  const ops::DeviceScalars scalars =
      device_scalars(call, "sgd_step", device_lr, found_inf, grad_scale);
  call.run([&] {
    ops::sgd_step(params_, grads_, has_buffers ? &buffers : nullptr, step,
                  {lr, momentum, dampening, weight_decay, nesterov, maximize}, scalars);
  });
}

}  // namespace

void bind_sgd(py::module_& m) {
  m.def("sgd_step", &sgd_step, py::arg("params"), py::arg("grads"), py::arg("momentum_buffers"),
        py::arg("step"), py::arg("lr"), py::arg("momentum"), py::arg("dampening"),
        py::arg("weight_decay"), py::arg("nesterov"), py::arg("maximize"),
        py::arg("master_params") = py::none(), py::arg("device_lr") = py::none(),
        py::arg("found_inf") = py::none(), py::arg("grad_scale") = py::none());
}

}  // namespace fastdl::bindings
