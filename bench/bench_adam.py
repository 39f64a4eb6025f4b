"""adam_step against torch's three implementations, over the tensors of a network."""

from functools import partial
from typing import Any

import numpy as np

import fastdl
from bench.case import Call, Case, normal
from fastdl import reference


def tensors(sizes: list[int], dtype: Any) -> tuple[list[np.ndarray], ...]:
    params = [normal(n, dtype, seed=i) for i, n in enumerate(sizes)]
    grads = [normal(n, dtype, seed=i + len(sizes)) for i, n in enumerate(sizes)]
    return params, grads, [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]


def step_of(step: Any, sizes: list[int], dtype: Any) -> dict[str, Call]:
    arrays = tensors(sizes, dtype)

    def forward() -> Any:
        step(*arrays, step=1)
        return arrays[0]

    return {"forward": forward}


def torch_step(implementation: dict[str, bool], sizes: list[int], dtype: Any) -> dict[str, Call]:
    import torch

    torch.set_num_threads(fastdl.get_num_threads())
    params, grads, _, _ = tensors(sizes, dtype)
    leaves = [torch.from_numpy(p).requires_grad_() for p in params]
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = torch.from_numpy(grad)
    return {"forward": torch.optim.Adam(leaves, **implementation).step}


def adam(name: str, sizes: list[int], smoke: bool = False) -> Case:
    return Case(
        "adam_step",
        name,
        smoke=smoke,
        calls={
            "fastdl": partial(step_of, fastdl.adam_step, sizes),
            "numpy": partial(step_of, reference.adam_step, sizes),
            "torch": partial(torch_step, {"foreach": False}, sizes),
            "torch-foreach": partial(torch_step, {"foreach": True}, sizes),
            "torch-fused": partial(torch_step, {"fused": True}, sizes),
        },
    )


CASES = [
    adam("100k in 200 tensors", [500] * 200, smoke=True),
    adam("11M in 62 tensors", [11_000_000 // 62] * 62),
    adam("25M in 160 tensors", [25_000_000 // 160] * 160),
]
