// The two layouts of images: channels before the pixels, as most kernels work, or after them.
#pragma once

#include "core/output.h"

namespace fastdl::ops {

// The same images, of any float dtype, in the other layout.
void to_channels_last(Output& y, const Tensor& x);
void to_channels_first(Output& y, const Tensor& x);

// Images as kernels of planes take them: those given, or a copy.
class ChannelsFirst {
 public:
  explicit ChannelsFirst(const Tensor& x) : tensor_(x) {
    if (!x.channels_last) return;
    to_channels_first(copy_, x);
    tensor_.data = copy_.tensor().data;
    tensor_.channels_last = false;
  }
  const Tensor& tensor() const { return tensor_; }

 private:
  Output copy_;
  Tensor tensor_;
};

// For an op without a kernel of its own for images with the channels last: make(y) computes y with
// the channels first.
template <typename Make>
void make_channels_last(Output& y, Make&& make) {
  Output first;
  make(first);
  if (first.made()) to_channels_last(y, first.tensor());
}

}  // namespace fastdl::ops
