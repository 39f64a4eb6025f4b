// The state of random numbers as Python has it: (seed, offset), or an array of one int64 that lies
// on the device, a seed, which a CUDA graph may draw anew before each replay.
#pragma once

#include <utility>

#include "bindings/call.h"
#include "core/random.h"

namespace fastdl::bindings {

using State = std::pair<uint64_t, uint64_t>;

inline RngState rng_state_of(Call& call, const char* op, py::handle state) {
  if (!is_array(state)) {
    py::detail::make_caster<State> pair;
    check_type(pair.load(state, true), op, "rng_state must be two integers of [0, 2^64), got ",
               Text{state});
    const auto [seed, offset] = py::detail::cast_op<State>(pair);
    return {seed, offset};
  }
  const Tensor& seed = call.index_input("rng_state", state);
  check(call.on_device(), op, "rng_state must be (seed, offset) for arrays of the host");
  check(seed.numel() == 1, op, "rng_state must have one element, got shape ", seed.shape);
  return {0, 0, seed.ptr<int64_t>()};
}

}  // namespace fastdl::bindings
