// CuPy's arrays: what DLPack's C exchange API would tell of them, which CuPy lacks, by its Python
// attributes and functions.
#pragma once

#include "bindings/array.h"

namespace fastdl::bindings::cupy {

bool is_array(py::handle type);
Library library();

// A C-contiguous copy.
py::object copy(const Array& array, DType dtype);
void copy_back(const Array& target, const Array& source);

}  // namespace fastdl::bindings::cupy
