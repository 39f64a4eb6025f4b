"""Layers and what follows them as one module, for inference: what optimize() makes of a model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastdl.torch.conv2d import conv2d_fused
from fastdl.torch.library import core
from fastdl.torch.linear import linear_fused

# A packed weight lies beside the one it was made of. For larger ones that gains too little: of
# ResNet-18's time (8 images) 2 % for 44 MiB, of BERT-base's 1 % (8 texts of 128) and nothing (16
# tokens) for 324 MiB, on a Xeon with AVX-512 and with AMX.
_LARGEST_PACKED = 1 << 20


class _Fused(nn.Module):
    """activation(layer(input) + residual) with a constant weight.

    A small weight is packed once, when the module is made, loaded or converted.
    """

    weight: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, activation: str | None) -> None:
        super().__init__()
        self.weight = nn.Buffer(layer.weight.detach().contiguous())  # as kernels read it
        self.bias = None if layer.bias is None else nn.Buffer(layer.bias.detach())
        self.activation = activation
        self.packed: Tensor | None = None

    def pack(self) -> None:
        raise NotImplementedError

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.pack()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_Fused":
        super()._apply(fn, recurse)
        self.pack()
        return self


class FusedConv2d(_Fused):
    def __init__(self, conv: nn.Conv2d, activation: str | None = None) -> None:
        super().__init__(conv, activation)
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.pack()

    def pack(self) -> None:
        self.packed = None
        if self.weight.nbytes <= _LARGEST_PACKED:
            packed = core.pack_conv2d_weight(self.weight, self.groups)
            self.packed = packed if packed.numel() else None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        window = (self.stride, self.padding, self.dilation, self.groups)
        epilogue = (self.activation, residual, self.packed)
        return conv2d_fused(input, self.weight, self.bias, *window, *epilogue)

    def extra_repr(self) -> str:
        channels = f"{self.weight.shape[1] * self.groups}, {self.weight.shape[0]}"
        return f"{channels}, kernel_size={tuple(self.weight.shape[2:])}, {self.activation}"


class FusedLinear(_Fused):
    def __init__(self, linear: nn.Linear, activation: str | None = None) -> None:
        super().__init__(linear, activation)
        self.pack()

    def pack(self) -> None:
        wide = self.weight.dtype.itemsize >= 4  # 16-bit ones are taken as they are
        packs = wide and self.weight.nbytes <= _LARGEST_PACKED
        self.packed = core.pack_linear_weight(self.weight) if packs else None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        epilogue = (self.activation, residual, self.packed)
        return linear_fused(input, self.weight, self.bias, *epilogue)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, {self.activation}"
