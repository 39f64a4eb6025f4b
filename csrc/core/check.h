// Errors a caller can make, in the one form "[op] what is wrong", and overflow-safe sizes.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fastdl {

// The bindings raise them as Python's ValueError and TypeError.
struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

template <typename... Parts>
std::string message(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << op << "] ";
  (text << ... << parts);
  return text.str();
}

template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  throw ValueError(message(op, parts...));
}

template <typename... Parts>
void check(bool ok, const char* op, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail(op, parts...);
}

template <typename... Parts>
void check_type(bool ok, const char* op, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw TypeError(message(op, parts...));
}

inline int64_t checked_multiply(const char* op, int64_t a, int64_t b) {
  int64_t product;
  check(!__builtin_mul_overflow(a, b, &product), op, "size ", a, " x ", b, " overflows 64 bits");
  return product;
}

inline int64_t checked_add(const char* op, int64_t a, int64_t b) {
  int64_t sum;
  check(!__builtin_add_overflow(a, b, &sum), op, "size ", a, " + ", b, " overflows 64 bits");
  return sum;
}

}  // namespace fastdl
