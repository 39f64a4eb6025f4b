// When AMX's tiles are worth it.
#pragma once

#include "core/integers.h"
#include "core/parts.h"

namespace fastdl::ops {

// Whether they beat fused multiply-adds, although both matrices are laid out for them first. In
// cycles: of 512 products of bfloat16 in tiles, and what an element of A or B, `laid_out`, and one
// of C costs beside.
template <typename E>
bool worth_tiles(int64_t rows, int64_t columns, int64_t terms, double laid_out) {
  const auto whole = [](int64_t n, int64_t step) { return static_cast<double>(round_up(n, step)); };
  const double m = whole(rows, 16), n = whole(columns, 16), k = whole(terms, 32);
  const double vectors =
      static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(terms) / 26;
  return m * n * k * kTileProducts<E> / 350 + laid_out * (m + n) * k + 0.5 * m * n < vectors;
}

}  // namespace fastdl::ops
