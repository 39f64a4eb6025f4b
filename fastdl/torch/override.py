"""override(): a program's own calls of torch.nn.functional, by fastdl's kernels."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastdl.torch import functional as ours
from fastdl.torch.library import DEVICES, FLOAT_DTYPES

# What programs call, by the name of our function.
_CALLS: dict[str, tuple[Any, ...]] = {
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d,),
    "adaptive_max_pool2d": (F.adaptive_max_pool2d,),
    "addmm": (torch.addmm, Tensor.addmm),
    "avg_pool2d": (F.avg_pool2d,),
    "batch_norm": (F.batch_norm,),
    "conv1d": (torch.conv1d,),
    "conv2d": (torch.conv2d,),
    "conv_transpose2d": (torch.conv_transpose2d,),
    "cross_entropy": (F.cross_entropy,),
    "dropout": (F.dropout,),
    "elu": (F.elu,),
    "gelu": (F.gelu,),
    "layer_norm": (F.layer_norm,),
    "leaky_relu": (F.leaky_relu,),
    "linear": (F.linear,),
    "log_softmax": (F.log_softmax, torch.log_softmax, Tensor.log_softmax),
    "matmul": (torch.matmul, Tensor.matmul, Tensor.__matmul__),
    "max_pool2d": (F.max_pool2d, torch.max_pool2d),
    "nll_loss": (F.nll_loss,),
    "relu": (F.relu, torch.relu, Tensor.relu),
    "relu6": (F.relu6,),
    "scaled_dot_product_attention": (F.scaled_dot_product_attention,),
    "sigmoid": (torch.sigmoid, Tensor.sigmoid),
    "silu": (F.silu,),
    "softmax": (F.softmax, torch.softmax, Tensor.softmax),
    "tanh": (torch.tanh, Tensor.tanh),
}
# Arguments that ours do not have, and that PyTorch's own modules pass along.
_IDLE = ("_stacklevel", "size_average", "reduce")


class override(TorchFunctionMode):
    """Run the functions of PyTorch that a program calls by fastdl, where fastdl has them.

    For code whose modules :func:`fastdl.torch.patch` cannot swap, as its ``forward`` methods call
    ``F.conv2d``, ``F.scaled_dot_product_attention``, ``x.softmax(1)`` and the like. Nothing is
    active by importing. A call with tensors or options that fastdl does not take stays PyTorch's.
    Every call of a PyTorch function pays some 2 microseconds under it.

    Examples
    --------
    >>> import torch, fastdl, fastdl.torch
    >>> with fastdl.torch.override():
    ...     y = torch.nn.functional.softmax(torch.zeros(1, 2), dim=1)
    >>> y
    tensor([[0.5000, 0.5000]])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        replacement = replacement_of(func, args, kwargs)
        if replacement is not None and _are_ours(args, kwargs):
            ours, given = replacement
            return ours(*args, **given)
        return func(*args, **kwargs)


def replacement_of(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """Our function that takes these arguments, and what to pass by name; None if there is none."""
    replacement = _REPLACEMENTS.get(func)
    legacy = kwargs.get("size_average") is not None or kwargs.get("reduce") is not None
    if replacement is None or legacy:
        return None
    given = {name: value for name, value in kwargs.items() if name not in _IDLE}
    if not 0 < len(args) <= replacement.positions or not given.keys() <= replacement.names:
        return None
    return replacement.function, given


class _Replacement:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self.names = {parameter.name for parameter in parameters}
        self.positions = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _are_ours(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return (
        isinstance(args[0], Tensor)
        and args[0].dtype in FLOAT_DTYPES
        and all(_is_plain(x) for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
    )


def _is_plain(x: Tensor) -> bool:
    return x.device.type in DEVICES and x.layout == torch.strided and not x.is_nested


_REPLACEMENTS = {
    call: _Replacement(getattr(ours, name)) for name, calls in _CALLS.items() for call in calls
}
