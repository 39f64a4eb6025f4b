// dropout: y_i = x_i * (0 or 1 / (1 - p)) by the random word of i; backward is the same map of dy.
//
// The words are made again where they are needed, 128 at a time in the L1 cache: nothing but x is
// read, and no mask is kept for backward.
#include "kernels/dropout.h"

#include "core/parallel.h"
#include "core/philox.h"

namespace fastdl::FASTDL_ISA {
namespace {

constexpr int64_t kGrain = 32768;  // some 20 us

template <typename T>
void dropout(T* y, const T* x, int64_t n, const Dropout& dropout) {
  parallel_ranges(n, kGrain, [=, &dropout](int64_t begin, int64_t end) {
    for_dropout_factors<T>(dropout, static_cast<uint64_t>(begin), end - begin,
                           [=](int64_t j, const T* factors, int64_t m) {
                             for_each_vec<T>(m, [=](int64_t i, int lanes) {
                               const int64_t at = begin + j + i;
                               store(y + at, load(x + at, lanes) * load(factors + i), lanes);
                             });
                           });
  });
}

}  // namespace

FASTDL_DEFINE_KERNELS(DropoutKernels, dropout_kernels, dropout<T>)

}  // namespace fastdl::FASTDL_ISA
