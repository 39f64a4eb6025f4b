#include <dlfcn.h>
#include <omp.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/call.h"
#include "core/buffer_pool.h"
#include "core/device.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "core/precision.h"
#include "core/random.h"
#include "core/trace.h"

namespace fastdl::bindings {
namespace {

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (int i = 0; i < static_cast<int>(Isa::count); ++i) {
    if (isa_supported(static_cast<Isa>(i))) names.emplace_back(isa_name(static_cast<Isa>(i)));
  }
  return names;
}

py::dict last_trace_dict() {
  py::dict fields;
  fields["kernel"] = last_trace.kernel;
  fields["reason"] = last_trace.reason;
  fields["flops"] = last_trace.flops;
  fields["bytes"] = last_trace.bytes;
  return fields;
}

const char* get_precision() { return precision == Precision::strict ? "strict" : "auto"; }

void set_precision(const std::string& name) {
  check(name == "auto" || name == "strict", "set_precision",
        "expected \"auto\" or \"strict\", got \"", name, '"');
  precision = name == "strict" ? Precision::strict : Precision::automatic;
}

std::pair<uint64_t, uint64_t> rng_state() {
  const RngState state = get_rng_state();
  return {state.seed, state.offset};
}

// The file of the OpenMP runtime this process really uses.
std::string openmp_runtime() {
  Dl_info info;
  const auto* address = reinterpret_cast<const void*>(&omp_get_max_threads);
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "unknown";
}

py::dict build_config() {
  py::dict fields;
  fields["compiler"] = FASTDL_COMPILER;
  fields["flags"] = FASTDL_FLAGS;
  fields["openmp"] = openmp_runtime();
  fields["cuda"] = FASTDL_CUDA_BUILD;
  return fields;
}

}  // namespace

void bind_config(py::module_& m) {
  m.def("get_isa", [] { return isa_name(current_isa()); });
  m.def("set_isa", [](const std::string& name) { set_isa(name.c_str()); }, py::arg("name"));
  m.def("supported_isas", &supported_isas);
  m.def("get_num_threads", &get_num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_precision", &get_precision);
  m.def("set_precision", &set_precision, py::arg("name"));
  m.def("get_rng_state", &rng_state);
  m.def(
      "set_rng_state", [](uint64_t seed, uint64_t offset) { set_rng_state({seed, offset}); },
      py::arg("seed"), py::arg("offset"));
  m.def("get_buffer_pool_limit", &get_buffer_pool_limit);
  m.def("set_buffer_pool_limit", &set_buffer_pool_limit, py::arg("bytes"));
  m.def("buffer_pool_size", &buffer_pool_size);
  m.def("last_trace", &last_trace_dict);
  m.def("build_config", &build_config);
  m.def(
      "emulate_cuda",
      [](bool on) {
        check(kEmulatesCuda || !on, "emulate_cuda", "this build has no emulator of CUDA");
        emulates_cuda = on;
      },
      py::arg("on"));
}

}  // namespace fastdl::bindings
