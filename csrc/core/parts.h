// How numbers are taken by AMX's tiles, which multiply bfloat16 alone: see core/split.h.
#pragma once

#include "core/half.h"

namespace fastdl {

// Numbers of bfloat16 that make one of E.
template <typename E>
constexpr int kParts = 1;
template <>
inline constexpr int kParts<float> = 3;
template <>
inline constexpr int kParts<float16> = 2;

// Products of bfloat16 that a product of E takes: of two parts all, of three the largest six.
template <typename E>
constexpr int kTileProducts = kParts<E> == 1 ? 1 : 2 * kParts<E>;

}  // namespace fastdl
