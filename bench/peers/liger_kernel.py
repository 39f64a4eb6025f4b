"""Liger-Kernel's Triton kernels, on a GPU."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any


def functions(op: str) -> Mapping[str, Callable[..., Any]]:
    """Its function of that name, if it is installed and has one."""
    if not find_spec("liger_kernel"):
        return {}
    from liger_kernel.transformers import functional

    def softmax(x: Any, dim: int) -> Any:
        return functional.liger_softmax(x)  # of the last dimension

    def layer_norm(x: Any, normalized_shape: Any, weight: Any, bias: Any) -> Any:
        return functional.liger_layer_norm(x, weight, bias, 1e-5)

    def cross_entropy(x: Any, target: Any) -> Any:
        return functional.liger_cross_entropy(x, target)

    known = {"softmax": softmax, "layer_norm": layer_norm, "cross_entropy": cross_entropy}
    return {"liger": known[op]} if op in known else {}


def start(threads: int) -> None:
    pass


def make(*arguments: Any) -> None:
    """It has nothing on the CPU."""
