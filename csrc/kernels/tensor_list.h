// One parallel region over many arrays: laid end to end they are cut into fixed blocks, so that
// hundreds of small arrays fill a few blocks and a large one spreads over many.
#pragma once

#include "core/parallel.h"

namespace fastdl::FASTDL_ISA {

// body(item, begin, end) for pieces of all items; an item has a size > 0, and its `start` is the
// sum of the sizes before it.
template <typename Item, typename Body>
FASTDL_INLINE void for_each_piece(const Item* items, int64_t count, Body&& body) {
  constexpr int64_t kBlock = 16384;  // some 10 us of an optimiser
  if (count == 0) return;
  const int64_t total = items[count - 1].start + items[count - 1].size;
  parallel_ranges(total, kBlock, [&](int64_t begin, int64_t end) {
    int64_t first = 0, last = count - 1;  // the item that holds `begin`, by bisection
    while (first < last) {
      const int64_t middle = first + (last - first + 1) / 2;
      if (items[middle].start <= begin) {
        first = middle;
      } else {
        last = middle - 1;
      }
    }
    for (int64_t i = first; begin < end; ++i) {
      const int64_t next = items[i].start + items[i].size;
      const int64_t stop = next < end ? next : end;
      body(items[i], begin - items[i].start, stop - items[i].start);
      begin = stop;
    }
  });
}

}  // namespace fastdl::FASTDL_ISA
