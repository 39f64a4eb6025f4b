#include "ops/conv2d.h"

#include <pybind11/stl.h>

#include "bindings/call.h"
#include "bindings/native_products.h"
#include "bindings/pair.h"
#include "ops/conv2d_halves.h"

namespace fastdl::bindings {
namespace {

HeightWidth size_of(const char* op, const char* name, py::handle value) {
  const auto [h, w] = to_pair(op, name, value);
  return {h, w};
}

ops::Conv2dOptions options_of(const char* op, py::handle stride, py::handle padding,
                              py::handle dilation, py::handle groups) {
  ops::Conv2dOptions options{.stride = size_of(op, "stride", stride),
                             .padding = {},
                             .dilation = size_of(op, "dilation", dilation),
                             .padding_mode = {},
                             .groups = to_int(op, "groups", "an int", groups)};
  if (py::isinstance<py::str>(padding)) {
    options.padding_mode = padding.cast<std::string>();
  } else {
    options.padding = size_of(op, "padding", padding);
  }
  return options;
}

// Windows of 1x1 make a matrix product, which takes 16-bit numbers as they lie.
Native native_for(const char* op, py::handle weight, const ops::Conv2dOptions& o) {
  Native native{.products = "conv"};
  const HeightWidth one{1, 1}, zero{0, 0};
  if (!(o.stride == one && o.padding == zero && o.groups == 1)) return native;
  const Array array = as_array(op, "weight", weight);
  if (array.ndim == 4 && array.shape[2] == 1 && array.shape[3] == 1) {
    native.bfloat16 = ops::multiplies_bfloat16();
    native.float16 = ops::multiplies_float16();
  }
  return native;
}

// Forward may take others so as well.
Native native_for_forward(py::handle weight, const ops::Conv2dOptions& o) {
  Native native = native_for("conv2d", weight, o);
  const Array array = as_array("conv2d", "weight", weight);
  if (o.groups > 1 || array.ndim != 4 || array.device != kHost) return native;
  const auto takes = [&, shape = Shape(array.shape, array.shape + 4)](DType dtype) {
    return ops::conv2d_takes_windows(dtype, shape, o.stride);
  };
  native.bfloat16 |= takes(DType::bfloat16);
  native.float16 |= takes(DType::float16);
  return native;
}

py::array forward(py::object x, py::object weight, py::object bias, py::object stride,
                  py::object padding, py::object dilation, py::object groups,
                  const std::optional<std::string>& activation, py::object residual, py::object out,
                  py::object packed) {
  const auto options = options_of("conv2d", stride, padding, dilation, groups);
  Call call("conv2d", native_for_forward(weight, options));
  const Tensor& x_ = out.is_none() ? call.images("x", x) : call.input("x", x);
  const Tensor& weight_ = call.input("weight", weight);
  const Tensor* bias_ = call.optional_input("bias", bias);
  const Tensor* residual_ =
      residual.is_none() ? nullptr : &call.images("residual", residual, x_.channels_last);
  const Tensor* packed_ = call.optional_input("packed", packed);
  Output& y = call.output(out);
  call.run([&] {
    ops::conv2d_forward(y, x_, weight_, packed_, bias_, options,
                        ops::epilogue_options("conv2d", activation, residual_));
  });
  return call.result(y);
}

py::array pack_weight(py::object weight, py::object groups) {
  Call call("pack_conv2d_weight");
  const Tensor& weight_ = call.input("weight", weight);
  const int64_t groups_ = to_int("pack_conv2d_weight", "groups", "an int", groups);
  Output& packed = call.output();
  call.run([&] { ops::pack_conv2d_weight(packed, weight_, groups_); });
  return call.result(packed);
}

py::tuple backward(py::object dy, py::object x, py::object weight, py::object stride,
                   py::object padding, py::object dilation, py::object groups,
                   std::array<bool, 3> output_mask) {
  const auto options = options_of("conv2d_backward", stride, padding, dilation, groups);
  Call call("conv2d_backward", native_for("conv2d_backward", weight, options));
  const Tensor &x_ = call.images("x", x), &dy_ = call.images("dy", dy, x_.channels_last);
  const Tensor& weight_ = call.images("weight", weight);
  Output &dx = call.output(), &dweight = call.output(), &dbias = call.output();
  call.run(
      [&] { ops::conv2d_backward(dx, dweight, dbias, dy_, x_, weight_, options, output_mask); });
  return py::make_tuple(call.optional_result(dx), call.optional_result(dweight),
                        call.optional_result(dbias));
}

}  // namespace

void bind_conv2d(py::module_& m) {
  m.def("conv2d_forward", forward, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
        py::arg("activation") = py::none(), py::arg("residual") = py::none(),
        py::arg("out") = py::none(), py::arg("packed") = py::none());
  m.def("pack_conv2d_weight", pack_weight, py::arg("weight"), py::arg("groups"));
  m.def("conv2d_backward", backward, py::arg("dy"), py::arg("x"), py::arg("weight"),
        py::arg("stride"), py::arg("padding"), py::arg("dilation"), py::arg("groups"),
        py::arg("output_mask"));
}

}  // namespace fastdl::bindings
