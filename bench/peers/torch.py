"""PyTorch: eager, with gradients by autograd.

torch-channels-last holds images and convolution weights with channels last; torch-foreach and
torch-fused are its variants of the optimisers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.functional import FORWARD, Case, Functional, first, gradient_of
from bench.harness import Call


def start(threads: int) -> None:
    torch.set_num_threads(threads)


def tensor(array: np.ndarray, channels_last: bool = False) -> torch.Tensor:
    if array.dtype.name == "bfloat16":  # a type of ml_dtypes, which torch does not know
        copy = torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    else:
        copy = torch.tensor(array)
    return copy.contiguous(memory_format=torch.channels_last) if channels_last else copy


def numpy_of(result: torch.Tensor) -> np.ndarray:
    return result.detach().double().numpy()


def make(
    provider: str, functional: Functional, case: Case, direction: str, dtype: np.dtype
) -> Call | None:
    channels_last = provider == "torch-channels-last"
    inputs = case.inputs(dtype)
    if provider != "torch" and not (channels_last and functional.images and inputs["x"].ndim == 4):
        return None
    tensors = {k: tensor(v, channels_last and v.ndim == 4) for k, v in inputs.items()}
    x, named = first(tensors, case.options)
    namesake = getattr(torch.nn.functional, functional.op, None) or getattr(torch, functional.op)
    op = functional.torch or namesake
    if direction == FORWARD:
        return Call(lambda: [op(x, **named)], numpy_of)
    wrt = [tensors[name].requires_grad_() for name in functional.wrt]
    y = op(x, **named)
    dy = tensor(np.asarray(gradient_of(y, dtype)), channels_last and y.ndim == 4)
    del y

    def run() -> Sequence[Any]:
        y = op(x, **named)
        return [y, *torch.autograd.grad(y, wrt, dy)]

    return Call(run, numpy_of)
