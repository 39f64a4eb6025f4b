#include "ops/peaks.h"

#include <string>
#include <utility>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

std::pair<double, double> measure_peaks(const std::string& dtype) {
  check(dtype == "float32" || dtype == "float64", "measure_peaks", "unknown dtype ", dtype);
  const py::gil_scoped_release release;
  const auto peaks = ops::measure_peaks(dtype == "float32" ? DType::float32 : DType::float64);
  return {peaks.flops, peaks.bytes};
}

}  // namespace

void bind_peaks(py::module_& m) { m.def("measure_peaks", &measure_peaks, py::arg("dtype")); }

}  // namespace fastdl::bindings
