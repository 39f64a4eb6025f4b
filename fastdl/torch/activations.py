"""relu, relu6, leaky_relu, elu, sigmoid, tanh, silu and gelu of tensors."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdl.torch.library import (
    Function,
    core,
    define,
    image_like,
    is_channels_last,
    is_direct,
    on_elements,
    record,
    twin_gradients,
)

aten = torch.ops.aten


def _activation(
    name: str,
    options: str,
    forward_kernel: Callable[..., Any],
    backward_kernel: Callable[..., Any],
    torch_op: Callable[..., Tensor],
    torch_backward: Callable[..., Any],
    saves_result: bool,
) -> type[Function]:
    """One of the ops, with ``options`` as its schema has them and PyTorch's op and gradient."""
    run_backward = define(
        f"{name}_backward(Tensor dy, Tensor saved{options}) -> Tensor",
        on_elements(backward_kernel, 2),
        lambda dy, saved, *options: image_like(saved),
    )

    class Activation(Function):
        schema = f"{name}(Tensor x{options}) -> Tensor"
        kernel = staticmethod(on_elements(forward_kernel))
        twin = staticmethod(torch_op)
        keeps_channels_last = True

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(output if saves_result else inputs[0])
            ctx.options = inputs[1:]

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
            (saved,) = ctx.saved_tensors
            gradient = torch_backward if torch.is_grad_enabled() else run_backward
            return gradient(dy, saved, *ctx.options), *(None for _ in ctx.options)

    return Activation


Relu = _activation(
    "relu",
    "",
    lambda x: core.relu_forward(x),
    core.relu_backward,
    F.relu,
    lambda dy, y: aten.threshold_backward(dy, y, 0),
    saves_result=True,
)
Relu6 = _activation(
    "relu6",
    "",
    lambda x: core.relu6_forward(x),
    core.relu6_backward,
    F.relu6,
    lambda dy, y: aten.hardtanh_backward(dy, y, 0, 6),
    saves_result=True,
)
LeakyRelu = _activation(
    "leaky_relu",
    ", float negative_slope",
    lambda x, slope: core.leaky_relu_forward(x, slope),
    core.leaky_relu_backward,
    F.leaky_relu,
    lambda dy, x, slope: aten.leaky_relu_backward(dy, x, slope, False),
    saves_result=False,
)
Elu = _activation(
    "elu",
    ", float alpha",
    lambda x, alpha: core.elu_forward(x, alpha),
    core.elu_backward,
    F.elu,
    lambda dy, x, alpha: aten.elu_backward(dy, alpha, 1, 1, False, x),
    saves_result=False,
)
Sigmoid = _activation(
    "sigmoid",
    "",
    lambda x: core.sigmoid_forward(x),
    core.sigmoid_backward,
    torch.sigmoid,
    aten.sigmoid_backward,
    saves_result=True,
)
Tanh = _activation(
    "tanh",
    "",
    lambda x: core.tanh_forward(x),
    core.tanh_backward,
    torch.tanh,
    aten.tanh_backward,
    saves_result=True,
)
Silu = _activation(
    "silu",
    "",
    lambda x: core.silu_forward(x),
    core.silu_backward,
    F.silu,
    lambda dy, x: twin_gradients(F.silu, (x,), (True,), dy)[0],
    saves_result=False,
)
Gelu = _activation(
    "gelu",
    ", str approximate",
    lambda x, approximate: core.gelu_forward(x, approximate),
    core.gelu_backward,
    lambda x, approximate: F.gelu(x, approximate=approximate),
    lambda dy, x, approximate: aten.gelu_backward(dy, x, approximate=approximate),
    saves_result=False,
)


def _in_place(activation: type[Function], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The op over its argument: eager mode's way, a pass less than copying the result."""

    class InPlace(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            kernel(x.permute(0, 2, 3, 1) if is_channels_last(x) else x)
            return x

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.mark_dirty(output)
            ctx.save_for_backward(output)
            ctx.options = ()

        backward = activation.backward

    return record(InPlace)


_relu_inplace = _in_place(Relu, lambda x: core.relu_forward(x, True))
_relu6_inplace = _in_place(Relu6, lambda x: core.relu6_forward(x, True))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.relu`; see :func:`fastdl.relu`."""
    if inplace and is_direct(input):
        return _relu_inplace(input)
    return _placed(Relu.call(input), input, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.relu6`; see :func:`fastdl.relu6`."""
    if inplace and is_direct(input):
        return _relu6_inplace(input)
    return _placed(Relu6.call(input), input, inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.leaky_relu`; see :func:`fastdl.leaky_relu`."""
    return _placed(LeakyRelu.call(input, negative_slope), input, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.elu`; see :func:`fastdl.elu`."""
    return _placed(Elu.call(input, alpha), input, inplace)


def sigmoid(input: Tensor) -> Tensor:
    """:func:`torch.sigmoid`; see :func:`fastdl.sigmoid`."""
    return Sigmoid.call(input)


def tanh(input: Tensor) -> Tensor:
    """:func:`torch.tanh`; see :func:`fastdl.tanh`."""
    return Tanh.call(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """:func:`torch.nn.functional.silu`; see :func:`fastdl.silu`."""
    return _placed(Silu.call(input), input, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """:func:`torch.nn.functional.gelu`; see :func:`fastdl.gelu`."""
    return Gelu.call(input, approximate)


def _placed(y: Tensor, x: Tensor, inplace: bool) -> Tensor:
    return x.copy_(y) if inplace else y
