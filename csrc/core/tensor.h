// What an op works on: a C-contiguous, aligned array in native byte order, by pointer, dtype and
// shape. Images may be channels_last, if the op asked for them as they lie.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/half.h"

namespace fastdl {

enum class DType : uint8_t { float32, float64, bfloat16, float16, int64, uint8, boolean };

inline const char* dtype_name(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "bfloat16", "float16",
                                   "int64",   "uint8",   "bool"};
  return names[static_cast<int>(dtype)];
}

inline size_t dtype_size(DType dtype) {
  constexpr size_t sizes[] = {4, 8, 2, 2, 8, 1, 1};
  return sizes[static_cast<int>(dtype)];
}

inline bool is_half(DType dtype) { return dtype == DType::bfloat16 || dtype == DType::float16; }

template <typename T>
constexpr DType dtype_of = std::is_same_v<T, float>      ? DType::float32
                           : std::is_same_v<T, double>   ? DType::float64
                           : std::is_same_v<T, bfloat16> ? DType::bfloat16
                           : std::is_same_v<T, float16>  ? DType::float16
                           : std::is_same_v<T, int64_t>  ? DType::int64
                                                         : DType::boolean;

class Shape {
 public:
  static constexpr int kMaxDims = 64;  // NumPy's own limit

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(dims.begin(), dims.end()) {}
  template <typename Iterator>
  Shape(Iterator begin, Iterator end) {
    for (; begin != end; ++begin) push_back(*begin);
  }

  Shape(const Shape& other) : Shape(other.begin(), other.end()) {}  // copies what is in use
  Shape& operator=(const Shape& other) {
    ndim_ = other.ndim_;
    std::copy(other.begin(), other.end(), dims_);
    return *this;
  }

  int ndim() const { return ndim_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  const int64_t* begin() const { return dims_; }
  const int64_t* end() const { return dims_ + ndim_; }
  void push_back(int64_t dim) {
    check(ndim_ < kMaxDims, "Shape", "more than ", kMaxDims, " dimensions");
    dims_[ndim_++] = dim;
  }
  bool operator==(const Shape& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

  // The number of elements in dimensions first..last-1; 1 when there are none.
  int64_t numel(int first, int last) const {
    int64_t product = 1;
    if (std::find(dims_ + first, dims_ + last, 0) != dims_ + last) return 0;
    for (int i = first; i < last; ++i) product = checked_multiply("Shape", product, dims_[i]);
    return product;
  }
  int64_t numel() const { return numel(0, ndim_); }

 private:
  int ndim_ = 0;
  int64_t dims_[kMaxDims];
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (int i = 0; i < shape.ndim(); ++i) out << (i ? ", " : "") << shape[i];
  return out << (shape.ndim() == 1 ? ",)" : ")");
}

inline std::ostream& operator<<(std::ostream& out, DType dtype) { return out << dtype_name(dtype); }

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::float32;  // of what lies at data
  Shape shape;
  DType stored = dtype;        // of the caller's array: 16-bit where data is its float32 copy
  bool channels_last = false;  // shape is (N, C, H, W), but memory (N, H, W, C)

  template <typename T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
  int ndim() const { return shape.ndim(); }
  int64_t numel() const { return shape.numel(); }
};

using TensorList = std::vector<const Tensor*>;

// That of statistics of x: a second rounding to 16 bits would be seen in every element.
inline DType statistic_dtype(DType x) { return is_half(x) ? DType::float32 : x; }

// The pointer of an optional tensor, null when it is absent.
template <typename T>
T* ptr_or_null(const Tensor* tensor) {
  return tensor ? tensor->ptr<T>() : nullptr;
}

// Calls body.template operator()<T>() with the C++ type a floating dtype is computed in: a runtime
// value becomes a compile-time one.
template <typename Body>
decltype(auto) dispatch_float(DType dtype, Body&& body) {
  return dtype == DType::float64 ? body.template operator()<double>()
                                 : body.template operator()<float>();
}

// The axis an op's `dim` means; negative ones count from the end. A 0-d array counts as (1,).
inline int normalize_dim(const char* op, int64_t dim, int ndim) {
  const int64_t n = std::max(ndim, 1);
  check(-n <= dim && dim < n, op, "dim ", dim, " is out of range for ", ndim, " dimensions");
  return static_cast<int>(dim < 0 ? dim + n : dim);
}

// Checks speak of the caller's dtypes, whatever the op computes in.
inline void check_same_dtype(const char* op, const char* name, const Tensor& tensor,
                             const char* other_name, const Tensor& other) {
  check_type(tensor.stored == other.stored, op, name, " is ", tensor.stored, ", ", other_name,
             " is ", other.stored, "; convert one of them with .astype");
}

// What may stay float32 beside a 16-bit tensor: parameters, statistics, moments, masks.
inline bool goes_with(const Tensor& tensor, const Tensor& other) {
  return tensor.stored == other.stored ||
         (is_half(other.stored) && tensor.stored == DType::float32);
}

inline void check_goes_with(const char* op, const char* name, const Tensor& tensor,
                            const char* other_name, const Tensor& other) {
  if (!goes_with(tensor, other)) check_same_dtype(op, name, tensor, other_name, other);
}

// The parameters and running statistics beside x, null where absent: all go with it alike.
inline void check_parameter_dtypes(
    const char* op, const Tensor& x,
    std::initializer_list<std::pair<const char*, const Tensor*>> parameters) {
  std::pair<const char*, const Tensor*> first{};
  for (const auto& parameter : parameters) {
    if (!parameter.second) continue;
    if (!first.second) first = parameter;
    check_goes_with(op, parameter.first, *parameter.second, "x", x);
    check_same_dtype(op, parameter.first, *parameter.second, first.first, *first.second);
  }
}

inline void check_shape(const char* op, const char* name, const Tensor& tensor,
                        const Shape& expected) {
  check(tensor.shape == expected, op, name, " must have shape ", expected, ", got ", tensor.shape);
}

}  // namespace fastdl
