// What the sum of a window of avg_pool2d is divided by.
#pragma once

#include "core/buffer_pool.h"
#include "core/vec.h"
#include "kernels/avg_pool2d.h"

namespace fastdl::FASTDL_ISA {

// The divisor of window (r, c) is of_row(r) * of_columns()[c].
template <typename T>
class Divisors {
 public:
  FASTDL_INLINE Divisors(const PoolWindows& windows, AvgPoolDivisor divisor)
      : rows_(windows.rows), divisor_(divisor), columns_(windows.columns.output) {
    for (int64_t c = 0; c < windows.columns.output; ++c) {
      const int64_t count = windows.columns.extent(c, divisor.count_include_pad);
      columns_.data()[c] = static_cast<T>(divisor.divisor ? 1 : count);
    }
  }
  FASTDL_INLINE int64_t height(int64_t r) const {
    return rows_.extent(r, divisor_.count_include_pad);
  }
  FASTDL_INLINE T of_row(int64_t r) const {
    return static_cast<T>(divisor_.divisor ? divisor_.divisor : height(r));
  }
  FASTDL_INLINE const T* of_columns() const { return columns_.data(); }

 private:
  PoolAxis rows_;
  AvgPoolDivisor divisor_;
  Workspace<T> columns_;
};

// 1 / divisor of each window, a row for each height that windows K high can have inside.
template <typename T>
class InverseTable {
 public:
  FASTDL_INLINE InverseTable(const PoolWindows& windows, AvgPoolDivisor divisor)
      : inverses_((windows.rows.kernel + 1) * windows.columns.output), rows_(windows.rows.output) {
    const int64_t width = windows.columns.output;
    const Divisors<T> divisors(windows, divisor);
    for (int64_t height = 1; height <= windows.rows.kernel; ++height) {
      const T of_row = static_cast<T>(divisor.divisor ? divisor.divisor : height);
      for_each_vec<T>(width, [&](int64_t i, int lanes) {
        const Vec<T> count = broadcast(of_row) * load(divisors.of_columns() + i, lanes);
        store(inverses_.data() + height * width + i, broadcast(T(1)) / count, lanes);
      });
    }
    for (int64_t r = 0; r < windows.rows.output; ++r) {
      rows_.data()[r] = inverses_.data() + divisors.height(r) * width;
    }
  }

  FASTDL_INLINE const T* const* rows() const { return rows_.data(); }

 private:
  Workspace<T> inverses_;
  Workspace<const T*> rows_;
};

}  // namespace fastdl::FASTDL_ISA
