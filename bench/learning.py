"""The losses of a network as it learns, by PyTorch or by fastdl."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

import fastdl.torch as ft


def losses_of(
    make: Callable[[], Any], dtype: Any, batches: Any, optimizer: str, options: Any, ours: bool
) -> Any:
    torch.manual_seed(0)
    model = make().to(dtype)
    if ours:
        ft.patch(model)
    module: Any = ft if ours else torch
    F = ft if ours else torch.nn.functional
    steps = getattr(module.optim, optimizer)(model.parameters(), **options)
    found = []
    for x, y in batches:
        steps.zero_grad()
        with ft.override() if ours else nullcontext():  # attention is a function
            scores = model(x.to(dtype) if x.is_floating_point() else x)
        loss = F.cross_entropy(scores.flatten(0, -2), y)
        loss.backward()
        steps.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)
