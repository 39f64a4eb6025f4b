"""conv1d of tensors: conv2d of images of one row."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.conv2d import conv2d


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """:func:`torch.nn.functional.conv1d`; see :func:`fastdl.conv2d`."""
    one = all(not isinstance(n, tuple | list) or len(n) == 1 for n in (stride, padding, dilation))
    fits = one and input.dim() in (2, 3) and weight.dim() == 3
    if not fits or input.shape[-2] != weight.shape[1] * groups:  # PyTorch tells what is wrong
        return F.conv1d(input, weight, bias, stride, padding, dilation, groups)
    y = conv2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        _row(1, stride),
        padding if isinstance(padding, str) else _row(0, padding),
        _row(1, dilation),
        groups,
    )
    return y.squeeze(-2)


def _row(height: int, width: int | Sequence[int]) -> tuple[int, int]:
    return (height, width[0] if isinstance(width, Sequence) else width)
