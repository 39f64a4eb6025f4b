"""What may follow a layer in its kernel, and the same as calls of their own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdl.torch.activations import gelu, relu

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y,
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": lambda y: gelu(y, "tanh"),
}


def of_dtype(x: Tensor, packed: Tensor | None) -> Tensor | None:
    """A packed weight for x: none where autocast has changed x's dtype since it was packed."""
    return packed if packed is not None and packed.dtype == x.dtype else None


def fits(residual: Any, x: Tensor, shape: Sequence[int]) -> bool:
    """Whether a kernel of x whose result has this shape can add the residual to it."""
    return (
        isinstance(residual, Tensor)
        and residual.dtype == x.dtype
        and torch.broadcast_shapes(residual.shape, shape) == tuple(shape)
    )


def followed_by(y: Tensor, activation: str | None, residual: Any) -> Tensor:
    """activation(y + residual), as the layer would have done it."""
    return _ACTIVATIONS[activation](y + residual)
