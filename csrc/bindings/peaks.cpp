#include "ops/peaks.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "bindings/call.h"

namespace fastdl::bindings {
namespace {

std::pair<double, double> measure_peaks(const std::string& dtype) {
  constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
  const auto* const found = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                         [&](DType known) { return dtype == dtype_name(known); });
  check(found != std::end(kDTypes), "measure_peaks", "unknown dtype ", dtype);
  const py::gil_scoped_release release;
  const auto peaks = ops::measure_peaks(*found);
  return {peaks.flops, peaks.bytes};
}

}  // namespace

void bind_peaks(py::module_& m) { m.def("measure_peaks", &measure_peaks, py::arg("dtype")); }

}  // namespace fastdl::bindings
