// Where the 16-bit types have no masked access, their tail goes through a full vector on the stack.
// The last lines of the vec_<isa>.h of such an ISA.
#pragma once

namespace fastdl::FASTDL_ISA {

template <typename Half>
FASTDL_INLINE VecF load_half(const Half* p, int n) {
  if (n == VecF::lanes) return load(p);
  Half lanes[VecF::lanes] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <typename Half>
FASTDL_INLINE void store_half(Half* p, VecF a, int n) {
  if (n == VecF::lanes) return store(p, a);
  Half lanes[VecF::lanes];
  store(lanes, a);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
FASTDL_INLINE VecF load(const bfloat16* p, int n) { return load_half(p, n); }
FASTDL_INLINE VecF load(const float16* p, int n) { return load_half(p, n); }
FASTDL_INLINE void store(bfloat16* p, VecF a, int n) { store_half(p, a, n); }
FASTDL_INLINE void store(float16* p, VecF a, int n) { store_half(p, a, n); }

}  // namespace fastdl::FASTDL_ISA
