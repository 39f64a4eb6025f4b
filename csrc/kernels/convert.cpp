// 16-bit arrays to float32 and back: 6 bytes of memory traffic an element, and nothing else counts.
//
// bfloat16 is the upper half of a float: widening shifts, narrowing adds half a unit of the last
// bit that stays. float16 has instructions of its own (F16C, AVX-512, NEON).
#include "kernels/convert.h"

#include "core/parallel.h"
#include "core/vec.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 1 << 16;  // about 15 us

template <typename To, typename From>
void convert(To* y, const From* x, int64_t n) {
  parallel_ranges(n, kGrain, [=](int64_t begin, int64_t end) {
    for_each_vec<float>(end - begin, [=](int64_t i, int lanes) {
      store(y + begin + i, load(x + begin + i, lanes), lanes);
    });
  });
}

}  // namespace

template <typename T>
const ConvertKernels<T>& convert_kernels() {
  static constexpr ConvertKernels<T> table = {convert<float, T>, convert<T, float>};
  return table;
}
template const ConvertKernels<bfloat16>& convert_kernels<bfloat16>();
template const ConvertKernels<float16>& convert_kernels<float16>();

}  // namespace fastdl::FASTDL_ISA
