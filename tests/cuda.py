"""``fastdl._core`` on a GPU, or on its emulator, for tests that know NumPy alone."""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np

from fastdl import _core

CUDA = "cuda"
_active = False
BUILD = _core.build_config()["cuda"]


def has_cuda() -> bool:
    """Whether there is a GPU that this build can use, or the emulator."""
    if BUILD == "emulated":
        return True
    if BUILD == "not built":
        return False
    import torch

    return torch.cuda.is_available()


def device() -> str:
    """Where PyTorch's tensors must lie for :func:`on_device`."""
    return "cpu" if BUILD == "emulated" else "cuda"


def on_device() -> AbstractContextManager[None]:
    """Tensors of :func:`device` are worked on by the kernels of ``cuda/``."""
    return _emulated() if BUILD == "emulated" else nullcontext()


@contextmanager
def on_cuda() -> Iterator[None]:
    """Arrays that the module's functions get are worked on by the kernels of ``cuda/``."""
    global _active
    _active = True
    try:
        with _emulated() if BUILD == "emulated" else _copied():
            yield
    finally:
        _active = False


def is_on_cuda() -> bool:
    return _active


@contextmanager
def _emulated() -> Iterator[None]:
    _core.emulate_cuda(True)
    try:
        yield
    finally:
        _core.emulate_cuda(False)


@contextmanager
def _copied() -> Iterator[None]:
    names = [name for name in dir(_core) if name.endswith(("_forward", "_backward", "_step"))]
    with patch.multiple(_core, **{name: _copying(getattr(_core, name)) for name in names}):
        yield


def _copying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arrays copied to the GPU, its results and what it changed back."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        sent: list[tuple[np.ndarray, Any]] = []
        result = function(*_sent(args, sent), **_sent(kwargs, sent))
        for array, tensor in sent:
            if array.flags.writeable:
                array[...] = _received(tensor)
        return next((a for a, tensor in sent if tensor is result), _received(result))

    return run


def _sent(value: Any, sent: list[tuple[np.ndarray, Any]]) -> Any:
    from tests.testing import to_torch

    if isinstance(value, dict):
        return {name: _sent(item, sent) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_sent(item, sent) for item in value)
    if not isinstance(value, np.ndarray):
        return value
    import torch

    tensor = to_torch(torch, value).cuda()
    sent.append((value, tensor))
    return tensor


def _received(value: Any) -> Any:
    import ml_dtypes
    import torch

    if isinstance(value, tuple):
        return tuple(_received(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        return value.float().cpu().numpy().astype(ml_dtypes.bfloat16)
    return value.cpu().numpy()
