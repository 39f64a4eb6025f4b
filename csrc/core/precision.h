// The accuracy convolutions keep: see fastdl.set_precision.
#pragma once

#include <atomic>

namespace fastdl {

enum class Precision { automatic, strict };

inline std::atomic<Precision> precision{Precision::automatic};

}  // namespace fastdl
