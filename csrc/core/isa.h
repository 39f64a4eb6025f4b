// The instruction sets the kernels are compiled for, and the table lookup that picks one per call.
//
// Every file in csrc/kernels/ is compiled once per ISA with FASTDL_ISA set to the name of the
// namespace its functions live in. An op declares its table of kernels for all of them with
// FASTDL_DECLARE_KERNELS and calls `softmax_kernels<float>()` to get the table of the ISA in use.
#pragma once

#if defined(__x86_64__)
#define FASTDL_FOR_EACH_ISA(X, ...) \
  X(scalar, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__)
#elif defined(__aarch64__)
#define FASTDL_FOR_EACH_ISA(X, ...) X(scalar, __VA_ARGS__) X(neon, __VA_ARGS__)
#else
#define FASTDL_FOR_EACH_ISA(X, ...) X(scalar, __VA_ARGS__)
#endif

// Headers that kernels share with the baseline code hold only functions that are always inlined: an
// out-of-line copy compiled for AVX-512 must never be the one the linker keeps for everybody.
#define FASTDL_INLINE inline __attribute__((always_inline))
// After the arguments of a small function that a loop's body and its tail both call: GCC would
// leave it out of line (a forward of cross_entropy took 0.54 ms instead of 0.32).
#define FASTDL_INLINE_LAMBDA __attribute__((always_inline))

namespace fastdl {

#define FASTDL_ISA_ENUMERATOR(isa, ...) isa,
enum class Isa : int { FASTDL_FOR_EACH_ISA(FASTDL_ISA_ENUMERATOR) count };
#undef FASTDL_ISA_ENUMERATOR

const char* isa_name(Isa isa);
bool isa_supported(Isa isa);  // by this CPU and its operating system

// The best supported ISA, or what FASTDL_ISA or set_isa() forced.
Isa current_isa();
void set_isa(const char* name);  // throws ValueError for an unknown or unsupported name

}  // namespace fastdl

#define FASTDL_DECLARE_KERNELS_FOR(isa, Table, name) \
  namespace isa {                                    \
  template <typename T>                              \
  const Table<T>& name();                            \
  }
#define FASTDL_KERNELS_CASE(isa, name) \
  case Isa::isa:                       \
    return isa::name<T>();

// In csrc/kernels/<op>.h, inside namespace fastdl.
#define FASTDL_DECLARE_KERNELS(Table, name)                    \
  FASTDL_FOR_EACH_ISA(FASTDL_DECLARE_KERNELS_FOR, Table, name) \
  template <typename T>                                        \
  const Table<T>& name() {                                     \
    switch (current_isa()) {                                   \
      FASTDL_FOR_EACH_ISA(FASTDL_KERNELS_CASE, name)           \
      default:                                                 \
        return scalar::name<T>();                              \
    }                                                          \
  }

// In csrc/kernels/<op>.cpp, inside namespace fastdl::FASTDL_ISA; the functions in the table's
// order.
#define FASTDL_DEFINE_KERNELS(Table, name, ...)      \
  template <typename T>                              \
  const Table<T>& name() {                           \
    static constexpr Table<T> table = {__VA_ARGS__}; \
    return table;                                    \
  }                                                  \
  template const Table<float>& name<float>();        \
  template const Table<double>& name<double>();
