#include "ops/adam.h"

#include <pybind11/stl.h>

#include "bindings/device_scalars.h"

namespace fastdl::bindings {
namespace {

// Arrays of one that count the steps of each parameter so far.
TensorList count_inouts(Call& call, py::handle list, size_t params) {
  const TensorList counts = call.inouts("counts", list);
  check(counts.size() == params, "adam_step", "counts holds ", counts.size(),
        " arrays, params holds ", params);
  for (size_t i = 0; i < counts.size(); ++i) {
    const Tensor& count = *counts[i];
    check_type(!is_half(count.stored), "adam_step", "counts[", i,
               "] must be float32 or float64, got ", count.stored);
    check(count.numel() == 1, "adam_step", "counts[", i, "] must have one element, got shape ",
          count.shape);
  }
  return counts;
}

// t of each parameter.
std::vector<int64_t> next_counts(const TensorList& counts, const ops::Steps& step) {
  std::vector<int64_t> next = ops::steps_of_each("adam_step", step, counts);
  for (size_t i = 0; i < counts.size(); ++i) {
    dispatch_float(counts[i]->dtype,
                   [&]<typename T>() { next[i] += static_cast<int64_t>(*counts[i]->ptr<T>()); });
  }
  return next;
}

void adam_step(py::object params, py::object grads, py::object exp_avgs, py::object exp_avg_sqs,
               py::object max_exp_avg_sqs, const ops::Steps& step, double lr, double beta1,
               double beta2, double eps, double weight_decay, bool decoupled, bool maximize,
               py::object master_params, py::object counts, py::object device_lr,
               py::object found_inf, py::object grad_scale) {
  Call call("adam_step");
  const TensorList params_ = call.inouts("params", params, "master_params", master_params),
                   grads_ = call.inputs("grads", grads),
                   exp_avgs_ = call.inouts("exp_avgs", exp_avgs),
                   exp_avg_sqs_ = call.inouts("exp_avg_sqs", exp_avg_sqs);
  const bool amsgrad = !max_exp_avg_sqs.is_none();
  const TensorList maxima =
      amsgrad ? call.inouts("max_exp_avg_sqs", max_exp_avg_sqs) : TensorList();
  const TensorList counts_ =
      counts.is_none() ? TensorList() : count_inouts(call, counts, params_.size());
  ops::DeviceScalars scalars = device_scalars(call, "adam_step", device_lr, found_inf, grad_scale);
  const bool counts_there = call.on_device() && !counts.is_none();
  if (counts_there) scalars.counts = &counts_;
  check(counts_there || !(scalars.lr || scalars.found_inf || scalars.grad_scale), "adam_step",
        "device_lr, found_inf and grad_scale need counts that lie on the device");
  const ops::Steps t =
      counts.is_none() || counts_there ? step : ops::Steps(next_counts(counts_, step));
  call.run([&] {
    ops::adam_step(params_, grads_, exp_avgs_, exp_avg_sqs_, amsgrad ? &maxima : nullptr, t,
                   {lr, beta1, beta2, eps, weight_decay, decoupled, maximize}, scalars);
    if (counts_there) return;
    for (size_t i = 0; i < counts_.size(); ++i) {
      dispatch_float(counts_[i]->dtype, [&]<typename T>() {
        *counts_[i]->ptr<T>() = static_cast<T>(std::get<std::vector<int64_t>>(t)[i]);
      });
    }
  });
}

}  // namespace

void bind_adam(py::module_& m) {
  m.def("adam_step", &adam_step, py::arg("params"), py::arg("grads"), py::arg("exp_avgs"),
        py::arg("exp_avg_sqs"), py::arg("max_exp_avg_sqs"), py::arg("step"), py::arg("lr"),
        py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"),
        py::arg("decoupled"), py::arg("maximize"), py::arg("master_params") = py::none(),
        py::arg("counts") = py::none(), py::arg("device_lr") = py::none(),
        py::arg("found_inf") = py::none(), py::arg("grad_scale") = py::none());
}

}  // namespace fastdl::bindings
