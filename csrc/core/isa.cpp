#include "core/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/check.h"

namespace fastdl {
namespace {

constexpr const char* kNames[] = {
#define FASTDL_ISA_NAME(isa, ...) #isa,
    FASTDL_FOR_EACH_ISA(FASTDL_ISA_NAME)
#undef FASTDL_ISA_NAME
};

Isa best_isa() {
  int best = 0;
  for (int i = 0; i < static_cast<int>(Isa::count); ++i) {
    if (isa_supported(static_cast<Isa>(i))) best = i;
  }
  return static_cast<Isa>(best);
}

Isa parse_isa(const char* name) {
  for (int i = 0; i < static_cast<int>(Isa::count); ++i) {
    if (std::strcmp(name, kNames[i]) != 0) continue;
    check(isa_supported(static_cast<Isa>(i)), "set_isa", "this CPU has no ", name);
    return static_cast<Isa>(i);
  }
  fail("set_isa", "unknown ISA '", name, "'");
}

#if defined(__x86_64__)
// The kernel gives a process the 8 KB of its tiles when it asks for them.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = [] {
    const char* forced = std::getenv("FASTDL_ISA");
    return forced && *forced ? parse_isa(forced) : best_isa();
  }();
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool isa_supported(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return true;
#if defined(__x86_64__)
    // __builtin_cpu_supports also asks the OS (XGETBV) whether it saves the wide registers.
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && isa_supported(Isa::avx2);
    case Isa::amx:
      return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") &&
             isa_supported(Isa::avx512) && may_use_tiles();
#elif defined(__aarch64__)
    case Isa::neon:
      return true;
#endif
    default:
      return false;
  }
}

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

Isa current_vector_isa() {
  const Isa isa = current_isa();
#if defined(__x86_64__)
  if (isa == Isa::amx) return Isa::avx512;
#endif
  return isa;
}

void set_isa(const char* name) { chosen().store(parse_isa(name), std::memory_order_relaxed); }

}  // namespace fastdl
