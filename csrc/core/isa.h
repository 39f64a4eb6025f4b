// The instruction sets the kernels are compiled for, and the table lookup that picks one per call.
//
// Every file in csrc/kernels/ is compiled once per ISA with FASTDL_ISA set to the name of the
// namespace its functions live in. An op declares its table of kernels for all of them with
// FASTDL_DECLARE_KERNELS and calls `softmax_kernels<float>()` to get the table of the ISA in use.
//
// amx is avx512 with tiles to multiply matrices: all ops have avx512's kernels then, and those of
// FASTDL_DECLARE_TILE_KERNELS beside them.
#pragma once

#if defined(__x86_64__)
#define FASTDL_FOR_EACH_VECTOR_ISA(X, ...) \
  X(scalar, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__)
#define FASTDL_FOR_EACH_ISA(X, ...) FASTDL_FOR_EACH_VECTOR_ISA(X, __VA_ARGS__) X(amx, __VA_ARGS__)
#elif defined(__aarch64__)
#define FASTDL_FOR_EACH_VECTOR_ISA(X, ...) X(scalar, __VA_ARGS__) X(neon, __VA_ARGS__)
#define FASTDL_FOR_EACH_ISA FASTDL_FOR_EACH_VECTOR_ISA
#else
#define FASTDL_FOR_EACH_VECTOR_ISA(X, ...) X(scalar, __VA_ARGS__)
#define FASTDL_FOR_EACH_ISA FASTDL_FOR_EACH_VECTOR_ISA
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
Isa current_vector_isa();
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
#define FASTDL_DECLARE_KERNELS(Table, name)                           \
  FASTDL_FOR_EACH_VECTOR_ISA(FASTDL_DECLARE_KERNELS_FOR, Table, name) \
  template <typename T>                                               \
  const Table<T>& name() {                                            \
    switch (current_vector_isa()) {                                   \
      FASTDL_FOR_EACH_VECTOR_ISA(FASTDL_KERNELS_CASE, name)           \
      default:                                                        \
        return scalar::name<T>();                                     \
    }                                                                 \
  }

// The same for tiles, and for float, bfloat16 and float16: `name` gives null without them.
#if defined(__x86_64__)
#define FASTDL_DECLARE_TILE_KERNELS(Table, name)                  \
  FASTDL_DECLARE_KERNELS_FOR(amx, Table, name)                    \
  template <typename E>                                           \
  const Table<E>* name() {                                        \
    return current_isa() == Isa::amx ? &amx::name<E>() : nullptr; \
  }
#else
#define FASTDL_DECLARE_TILE_KERNELS(Table, name) \
  template <typename E>                          \
  const Table<E>* name() {                       \
    return nullptr;                              \
  }
#endif

// In csrc/kernels/<op>.cpp, inside namespace fastdl::FASTDL_ISA; the functions in the table's
// order.
#define FASTDL_DEFINE_TABLE(Table, name, ...)        \
  template <typename T>                              \
  const Table<T>& name() {                           \
    static constexpr Table<T> table = {__VA_ARGS__}; \
    return table;                                    \
  }
#define FASTDL_DEFINE_KERNELS(Table, name, ...) \
  FASTDL_DEFINE_TABLE(Table, name, __VA_ARGS__) \
  template const Table<float>& name<float>();   \
  template const Table<double>& name<double>();
#define FASTDL_DEFINE_TILE_KERNELS(Table, name, ...) \
  FASTDL_DEFINE_TABLE(Table, name, __VA_ARGS__)      \
  template const Table<float>& name<float>();        \
  template const Table<bfloat16>& name<bfloat16>();  \
  template const Table<float16>& name<float16>();
