// What the last op of this thread did: fastdl.explain() and the bench read it.
#pragma once

namespace fastdl {

struct Trace {
  const char* kernel = "";  // the kernel chosen, with its tiling where it has one
  const char* reason = "";  // why not a faster one; empty when this is the fastest
  double flops = 0;
  double bytes = 0;  // what must be read and written at least once
};

inline thread_local Trace last_trace;

inline void trace(const char* kernel, double flops, double bytes, const char* reason = "") {
  last_trace = {kernel, reason, flops, bytes};
}

}  // namespace fastdl
