"""Who is timed: each provider makes a case's calls, {"forward": ..., "forward+backward": ...}."""

from importlib.util import find_spec
from typing import Any

import numpy as np

import fastdl
from bench.case import Call, Case, normal
from fastdl import reference

Calls = dict[str, Call]


def fastdl_calls(case: Case, dtype: Any) -> Calls:
    op, args = getattr(fastdl, case.op), case.args(dtype)
    dy = upstream(op(*args, **case.kwargs), dtype)

    def both() -> Any:
        y, pullback = fastdl.vjp(op, *args, **case.kwargs)
        return y, pullback(dy)

    return {"forward": lambda: op(*args, **case.kwargs), "forward+backward": both}


def numpy_calls(case: Case, dtype: Any) -> Calls:
    """The reference: what the others are verified against, and what plain NumPy costs."""
    op, args = getattr(reference, f"{case.op}_forward"), case.args(dtype)

    def forward() -> Any:
        result = op(*args, **case.kwargs)
        return result[0] if isinstance(result, tuple) else result

    return {"forward": forward}


def torch_calls(case: Case, dtype: Any) -> Calls:
    import torch

    torch.set_num_threads(fastdl.get_num_threads())
    op = getattr(torch.nn.functional, case.op, None) or getattr(torch, case.op)
    arrays = case.args(dtype)
    _, pullback = fastdl.vjp(getattr(fastdl, case.op), *arrays, **case.kwargs)
    args = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arrays]
    with torch.no_grad():
        dy = torch.from_numpy(np.array(upstream(op(*args, **case.kwargs).numpy(), dtype)))
    # leaves are what fastdl has a gradient for: no class indices, no running statistics
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    gradients = pullback(dy.numpy())
    leaves = [t.requires_grad_() for t, g in zip(tensors, gradients, strict=True) if g is not None]

    def forward() -> Any:
        with torch.no_grad():
            return op(*args, **case.kwargs)

    def both() -> Any:
        y = op(*args, **case.kwargs)
        return y, torch.autograd.grad(y, leaves, dy)

    return {"forward": forward, "forward+backward": both}


def upstream(y: Any, dtype: Any) -> np.ndarray:
    """A gradient of the result, the same for every provider."""
    return np.asarray(normal(np.shape(y), dtype, seed=9))


# torch-foreach and torch-fused are other implementations of torch's optimisers: see bench_adam.py.
PROVIDERS = {"fastdl": fastdl_calls, "torch": torch_calls, "numpy": numpy_calls}
NAMES = (*PROVIDERS, "torch-foreach", "torch-fused")


def available(name: str) -> bool:
    return find_spec(name.split("-")[0]) is not None


def calls_of(provider: str, case: Case, dtype: Any) -> Calls:
    """Empty when the provider has no part in the case."""
    if case.calls:
        return case.calls[provider](dtype) if provider in case.calls else {}
    return PROVIDERS[provider](case, dtype) if provider in PROVIDERS else {}
