"""optimize(model): for inference, layers that follow each other as one."""

import copy
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fastdl.torch.conv2d import conv2d_fused
from fastdl.torch.library import core
from fastdl.torch.patch import patch, unpatch


class FusedConv2d(nn.Module):
    """A constant convolution and what follows it: activation(conv2d(input) + residual).

    The weight is packed once, when the module is made or loaded.
    """

    def __init__(self, conv: nn.Conv2d, activation: str | None) -> None:
        super().__init__()
        self.weight = nn.Buffer(conv.weight.detach())
        self.bias = None if conv.bias is None else nn.Buffer(conv.bias.detach())
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.activation = activation
        self.packed: Tensor | None = None
        self._pack()
        self.register_load_state_dict_post_hook(lambda module, _: module._pack())

    def _pack(self) -> None:
        packed = core.pack_conv2d_weight(self.weight, self.groups)
        self.packed = packed if packed.numel() else None

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        window = (self.stride, self.padding, self.dilation, self.groups)
        epilogue = (self.activation, residual, self.packed)
        return conv2d_fused(input, self.weight, self.bias, *window, *epilogue)

    def extra_repr(self) -> str:
        channels = f"{self.weight.shape[1] * self.groups}, {self.weight.shape[0]}"
        return f"{channels}, kernel_size={tuple(self.weight.shape[2:])}, {self.activation}"


def optimize(model: nn.Module) -> fx.GraphModule:
    """A copy of a model for inference: batch norms folded, activations and residuals fused.

    Batch norms that follow a convolution become part of its weight and bias; ReLU or GELU after a
    convolution, and an addition before that, are applied while the result is in the cache; weights
    are packed once; every other layer is patched. Results differ from the model's by rounding.

    Parameters
    ----------
    model : in evaluation mode, and such that :func:`torch.fx.symbolic_trace` can trace it. It is
        copied, not changed.

    Returns
    -------
    A :class:`torch.fx.GraphModule` for calls without gradients.

    Raises
    ------
    ValueError : the model is in training mode.

    Examples
    --------
    >>> import torch, fastdl.torch
    >>> layers = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    >>> fast = fastdl.torch.optimize(torch.nn.Sequential(*layers).eval())
    >>> [name for name, _ in fast.named_children()]
    ['0']
    """
    if model.training:
        raise ValueError("[optimize] the model is in training mode; call model.eval() first")
    model = copy.deepcopy(model)
    unpatch(model)
    traced = fx.symbolic_trace(model)
    _fold_batch_norms(traced)
    _fuse_epilogues(traced)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    patch(traced)
    return traced.requires_grad_(False).eval()


def _module(traced: fx.GraphModule, node: Any, kinds: Any) -> Any:
    """The module that a node calls, if it is of one of these classes."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if type(module) in kinds else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _called_once(traced: fx.GraphModule, node: fx.Node) -> bool:
    return sum(other.target == node.target for other in traced.graph.nodes) == 1


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        norm = _module(traced, node, {nn.BatchNorm2d})
        if norm is None or norm.running_mean is None:
            continue
        before = node.args[0]
        conv = _module(traced, before, {nn.Conv2d})
        if conv is None or _only_user(before) is None or not _called_once(traced, before):
            continue
        traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


def _activation(traced: fx.GraphModule, node: fx.Node) -> str | None:
    """Which of the fused activations a node computes, as a module or as a function."""
    if _module(traced, node, {nn.ReLU}) is not None:
        return "relu"
    gelu = _module(traced, node, {nn.GELU})
    if gelu is not None:
        return "gelu" if gelu.approximate == "none" else "gelu_tanh"
    functions = (torch.relu, nn.functional.relu)
    called = node.op == "call_function" and node.target in functions
    return "relu" if called or (node.op, node.target) == ("call_method", "relu") else None


def _is_addition(node: fx.Node) -> bool:
    functions = (torch.add, operator.add, operator.iadd)
    called = node.op == "call_function" and node.target in functions
    return called and len(node.args) == 2 and not node.kwargs


def _fuse_epilogues(traced: fx.GraphModule) -> None:
    """conv, or conv + residual, with the activation after it; conv alone gets its weight packed."""
    for node in list(traced.graph.nodes):
        conv = _module(traced, node, {nn.Conv2d})
        if conv is None or conv.padding_mode != "zeros" or not _called_once(traced, node):
            continue
        absorbed: list[fx.Node] = []
        residual, activation = None, None
        user = _only_user(node)
        if user is not None and _is_addition(user):
            first, second = user.args
            other = second if first is node else first
            in_place_on_other = user.target is operator.iadd and first is not node
            if isinstance(other, fx.Node) and other is not node and not in_place_on_other:
                absorbed.append(user)
                residual, user = other, _only_user(user)
        if user is not None and _activation(traced, user):
            absorbed.append(user)
            activation = _activation(traced, user)
        traced.set_submodule(str(node.target), FusedConv2d(conv, activation))
        if residual is not None:
            absorbed[-1].prepend(node)  # it runs where both of its arguments are there
        if absorbed:
            absorbed[-1].replace_all_uses_with(node)
        for other in reversed(absorbed):
            traced.graph.erase_node(other)
        if residual is not None:
            node.args = (node.args[0], residual)
