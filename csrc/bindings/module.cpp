#include <pybind11/pybind11.h>

#include "core/check.h"
#include "core/isa.h"

namespace fastdl::bindings {

namespace py = pybind11;

void bind_activations(py::module_& m);
void bind_adam(py::module_& m);
void bind_adaptive_avg_pool2d(py::module_& m);
void bind_adaptive_max_pool2d(py::module_& m);
void bind_avg_pool2d(py::module_& m);
void bind_batch_norm(py::module_& m);
void bind_config(py::module_& m);
void bind_conv2d(py::module_& m);
void bind_cross_entropy(py::module_& m);
void bind_dropout(py::module_& m);
void bind_layer_norm(py::module_& m);
void bind_linear(py::module_& m);
void bind_matmul(py::module_& m);
void bind_max_pool2d(py::module_& m);
void bind_nll_loss(py::module_& m);
void bind_peaks(py::module_& m);
void bind_scaled_dot_product_attention(py::module_& m);
void bind_sgd(py::module_& m);
void bind_softmax(py::module_& m);
void bind_tf32(py::module_& m);

PYBIND11_MODULE(_core, m) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(error);
    } catch (const TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    }  // ValueError is a std::invalid_argument, which pybind11 raises as ValueError
  });
  current_isa();  // a wrong FASTDL_ISA fails the import, not the first call

  bind_activations(m);
  bind_adam(m);
  bind_adaptive_avg_pool2d(m);
  bind_adaptive_max_pool2d(m);
  bind_avg_pool2d(m);
  bind_batch_norm(m);
  bind_config(m);
  bind_conv2d(m);
  bind_cross_entropy(m);
  bind_dropout(m);
  bind_layer_norm(m);
  bind_linear(m);
  bind_matmul(m);
  bind_max_pool2d(m);
  bind_nll_loss(m);
  bind_peaks(m);
  bind_scaled_dot_product_attention(m);
  bind_sgd(m);
  bind_softmax(m);
  bind_tf32(m);
}

}  // namespace fastdl::bindings
