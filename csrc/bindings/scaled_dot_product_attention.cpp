#include "ops/scaled_dot_product_attention.h"

#include <pybind11/stl.h>

#include "bindings/rng_state.h"
#include "ops/matmul.h"

namespace fastdl::bindings {
namespace {

ops::AttentionInputs inputs(Call& call, py::handle query, py::handle key, py::handle value,
                            py::handle attn_mask) {
  return {call.input("query", query), call.input("key", key), call.input("value", value),
          attn_mask.is_none() ? nullptr : &call.mask_input("attn_mask", attn_mask)};
}

py::tuple forward(py::object query, py::object key, py::object value, py::object attn_mask,
                  double dropout_p, bool is_causal, std::optional<double> scale, bool enable_gqa,
                  py::object out, py::object rng_state) {
  // Tiles take both as they lie.
  Call call("scaled_dot_product_attention",
            {.bfloat16 = ops::multiplies_float16(), .float16 = ops::multiplies_float16()});
  const ops::AttentionInputs in = inputs(call, query, key, value, attn_mask);
  std::optional<RngState> given;
  if (!rng_state.is_none()) given = rng_state_of(call, "scaled_dot_product_attention", rng_state);
  Output &y = call.output(out), &logsumexp = call.statistic();
  RngState state;
  call.run([&] {
    state = ops::scaled_dot_product_attention_forward(
        y, logsumexp, in, {dropout_p, is_causal, scale, enable_gqa}, given);
  });
  return py::make_tuple(call.result(y), call.result(logsumexp), State(state.seed, state.offset));
}

py::tuple backward(py::object dy, py::object query, py::object key, py::object value, py::object y,
                   py::object logsumexp, py::object attn_mask, double dropout_p, bool is_causal,
                   std::optional<double> scale, bool enable_gqa, py::object rng_state,
                   std::array<bool, 4> output_mask) {
  Call call("scaled_dot_product_attention_backward");
  const Tensor& dy_ = call.input("dy", dy);
  const ops::AttentionInputs in = inputs(call, query, key, value, attn_mask);
  const Tensor &y_ = call.input("y", y), &logsumexp_ = call.input("logsumexp", logsumexp);
  const RngState state = rng_state_of(call, "scaled_dot_product_attention_backward", rng_state);
  Output &dquery = call.output(), &dkey = call.output(), &dvalue = call.output();
  Output& dattn_mask = in.attn_mask ? call.output_like(*in.attn_mask) : call.output();
  call.run([&] {
    ops::scaled_dot_product_attention_backward(
        {&dquery, &dkey, &dvalue, &dattn_mask}, dy_, in, y_, logsumexp_,
        {dropout_p, is_causal, scale, enable_gqa}, state, output_mask);
  });
  return py::make_tuple(call.optional_result(dquery), call.optional_result(dkey),
                        call.optional_result(dvalue), call.optional_result(dattn_mask));
}

}  // namespace

void bind_scaled_dot_product_attention(py::module_& m) {
  m.def("scaled_dot_product_attention_forward", &forward, py::arg("query"), py::arg("key"),
        py::arg("value"), py::arg("attn_mask") = py::none(), py::arg("dropout_p") = 0.0,
        py::arg("is_causal") = false, py::arg("scale") = py::none(), py::arg("enable_gqa") = false,
        py::arg("out") = py::none(), py::arg("rng_state") = py::none());
  m.def("scaled_dot_product_attention_backward", &backward, py::arg("dy"), py::arg("query"),
        py::arg("key"), py::arg("value"), py::arg("y"), py::arg("logsumexp"),
        py::arg("attn_mask") = py::none(), py::arg("dropout_p") = 0.0, py::arg("is_causal") = false,
        py::arg("scale") = py::none(), py::arg("enable_gqa") = false,
        py::arg("rng_state") = State(0, 0),
        py::arg("output_mask") = std::array<bool, 4>{true, true, true, true});
}

}  // namespace fastdl::bindings
