"""dropout of tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    image_like,
    in_layout_of,
)


def new_seed(x: Tensor) -> Tensor:
    """Drawn where x lies: nothing waits for a GPU, and a CUDA graph draws one at each replay."""
    return torch.randint(2**63 - 1, (), device=x.device)


def state_of(seed: Tensor) -> Tensor | tuple[int, int]:
    return seed if seed.is_cuda else (int(seed.item()), 0)


def _kernel(x: Tensor, p: float, seed: Tensor) -> Tensor:
    # The gradient is the same function of dy: what was dropped is zero, the rest is scaled.
    return in_layout_of(x, core.dropout_backward(x, p, state_of(seed)))


class Dropout(Function):
    """Elements dropped by the random numbers of a seed: a function, which may be called again."""

    schema = "dropout(Tensor x, float p, Tensor seed) -> Tensor"
    kernel = staticmethod(_kernel)
    twin = staticmethod(lambda x, p, seed: F.dropout(x, p))

    @classmethod
    def fake(cls, x: Tensor, p: float, seed: Tensor) -> Tensor:
        return image_like(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.p, ctx.seed = inputs

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return Dropout.call(dy, ctx.p, ctx.seed), None, None


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.dropout`; see :func:`fastdl.dropout`.

    Which elements are dropped follows from ``torch.manual_seed``, and is not what PyTorch drops.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"[dropout] p must lie between 0 and 1, got {p}")
    if not training or p == 0:
        return input
    y = Dropout.call(input, p, new_seed(input))
    return input.copy_(y) if inplace else y
