"""optimize(model): for inference, layers that follow each other as one."""

import copy
import inspect
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fastdl.torch.fused import FusedConv2d, FusedLinear
from fastdl.torch.matmul import matmul
from fastdl.torch.override import replacement_of
from fastdl.torch.patch import patch, unpatch

_IDENTITIES = {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}  # once trained


def optimize(model: nn.Module) -> nn.Module:
    """A copy of a model for inference: batch norms folded, activations and residuals fused.

    Batch norms that follow a convolution become part of its weight and bias; ReLU or GELU after a
    convolution or a linear layer, and an addition before that, are applied while the result is in
    the cache; weights of up to 1 MiB are packed once; every other layer is patched, and functions
    that fastdl has are called by it. Results differ from the model's by rounding.

    This is done on the graph that :func:`torch.fx.symbolic_trace` makes of ``forward``; arguments
    that default to None are taken to be None. A ``forward`` that cannot be traced, as it looks at
    its tensors' values or sizes, stays as it is, with a warning. Its submodules are then treated
    one by one; what it calls besides them is PyTorch's, unless it runs under :func:`override`.

    Parameters
    ----------
    model : in evaluation mode; its tensors are floating-point ones. It is copied, not changed.

    Returns
    -------
    A module for calls without gradients.

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
    try:
        fast = _optimized(model, optional=True)
    except Untraceable as reason:
        warnings.warn(
            f"[optimize] {type(model).__name__}.forward cannot be traced ({reason}); its submodules"
            " are optimized one by one. Run it under fastdl.torch.override(), for what it calls",
            stacklevel=2,
        )
        fast = _in_parts(model, {})
    patch(fast)
    return fast.requires_grad_(False).eval()


class Untraceable(Exception):
    """A module whose forward torch.fx cannot follow, or would follow for some arguments only."""


def _optimized(module: nn.Module, optional: bool) -> nn.Module:
    traced = _traced(module, optional)
    _erase_identities(traced)
    _fold_batch_norms(traced)
    _fuse_epilogues(traced)
    _replace_functions(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _in_parts(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The largest submodules that can be traced, and the layers of others, each by itself."""
    if module not in done:
        layer = _LAYERS.get(type(module))
        if layer is not None and _can_be_fused(module):
            done[module] = layer(module)
        elif any(True for _ in module.children()):
            try:
                traced = _optimized(module, optional=False)
                vars(traced).update(
                    (k, v) for k, v in vars(module).items() if k not in vars(traced)
                )
                done[module] = traced
            except Untraceable:
                done[module] = module
                for name, child in module._modules.items():
                    if child is not None:
                        module._modules[name] = _in_parts(child, done)
        else:
            done[module] = module
    return done[module]


def _traced(module: nn.Module, optional: bool) -> fx.GraphModule:
    """The graph of a module; ``optional``: it may be that of a call without optional arguments."""
    parameters = inspect.signature(module.forward).parameters
    given = [p for p in parameters.values() if p.default is p.empty]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given):
        raise Untraceable("it takes any number of arguments")
    if len(given) < len(parameters) and not optional:
        raise Untraceable("it has optional arguments")
    absent = {name: None for name, p in parameters.items() if p.default is None}
    try:
        traced = fx.symbolic_trace(module, concrete_args=absent or None)
    except Exception as error:  # whatever a forward does when it is given no tensors
        raise Untraceable(str(error).partition("\n")[0] or type(error).__name__) from error
    placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
    for node, name in zip(placeholders, parameters, strict=True):
        node.target = name  # tracing renames those that are absent
    return traced


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


def _erase_identities(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        if _module(traced, node, _IDENTITIES) is not None:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _fold_batch_norms(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        norm = _module(traced, node, {nn.BatchNorm2d})
        if norm is None or norm.running_mean is None:
            continue
        before = node.args[0]
        conv = _module(traced, before, {nn.Conv2d})
        if conv is None or _only_user(before) is None or not _called_once(traced, before):
            continue
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        folded = copy.deepcopy(conv, {id(conv.weight): conv.weight})  # others may use the layer
        folded.weight, folded.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        traced.set_submodule(str(before.target), folded)
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)


_LAYERS: dict[type[nn.Module], Any] = {nn.Conv2d: FusedConv2d, nn.Linear: FusedLinear}


def _can_be_fused(layer: nn.Module) -> bool:
    return not isinstance(layer, nn.Conv2d) or layer.padding_mode == "zeros"


def _activation(traced: fx.GraphModule, node: fx.Node) -> str | None:
    """Which of the fused activations a node computes, as a module or as a function."""
    if _module(traced, node, {nn.ReLU}) is not None:
        return "relu"
    gelu = _module(traced, node, {nn.GELU})
    if gelu is not None:
        return "gelu" if gelu.approximate == "none" else "gelu_tanh"
    if node.op == "call_function" and node.target is nn.functional.gelu:
        approximate = {"none": "gelu", "tanh": "gelu_tanh"}
        return approximate.get(str(node.kwargs.get("approximate", "none")))
    functions = (torch.relu, nn.functional.relu)
    called = node.op == "call_function" and node.target in functions
    return "relu" if called or (node.op, node.target) == ("call_method", "relu") else None


def _is_addition(node: fx.Node) -> bool:
    functions = (torch.add, operator.add, operator.iadd)
    called = node.op == "call_function" and node.target in functions
    return called and len(node.args) == 2 and not node.kwargs


_NOT_IN_PLACE = ("__index__", "__inv__", "__invert__")
_IN_PLACE = {
    f for name, f in vars(operator).items() if name.startswith("__i") and name not in _NOT_IN_PLACE
}


def _changes_arguments(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may overwrite what it is given."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    if node.target in _IN_PLACE or node.kwargs.get("inplace") or "out" in node.kwargs:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.endswith("_")


def _addition(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """What is done with a layer's result if that is an addition, and the other term."""
    user = _only_user(node)
    if user is None or not _is_addition(user):
        return None
    first, second = user.args
    other = second if first is node else first
    in_place_on_other = user.target is operator.iadd and first is not node
    if not isinstance(other, fx.Node) or other is node or in_place_on_other:
        return None
    return user, other


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    node = first.next
    while node is not last:
        yield node
        node = node.next


def _epilogue(
    traced: fx.GraphModule, node: fx.Node
) -> tuple[list[fx.Node], str | None, fx.Node | None]:
    """The nodes after a layer that it can absorb: their activation and their residual."""
    absorbed: list[fx.Node] = []
    residual = activation = None
    addition = _addition(node)
    if addition is not None:
        absorbed, residual = [addition[0]], addition[1]
    user = _only_user(absorbed[-1] if absorbed else node)
    if user is not None:
        activation = _activation(traced, user)
        if activation is not None:
            absorbed.append(user)
    # With a residual the layer runs where both of its arguments are there: they must still be
    # what they were.
    if residual is not None and any(
        _changes_arguments(traced, other)
        for other in _between(node, absorbed[-1])
        if other is not absorbed[0]
    ):
        return [], None, None
    return absorbed, activation, residual


def _fuse_epilogues(traced: fx.GraphModule) -> None:
    """A layer, or layer + residual, with the activation after it, and its weight packed."""
    for node in list(traced.graph.nodes):
        layer = _module(traced, node, _LAYERS)
        if layer is None or not _can_be_fused(layer) or not _called_once(traced, node):
            continue
        absorbed, activation, residual = _epilogue(traced, node)
        traced.set_submodule(str(node.target), _LAYERS[type(layer)](layer, activation))
        if residual is not None:
            absorbed[-1].prepend(node)
        if absorbed:
            absorbed[-1].replace_all_uses_with(node)
        for other in reversed(absorbed):
            traced.graph.erase_node(other)
        if residual is not None:
            node.args = (node.args[0], residual)


def _replace_functions(traced: fx.GraphModule) -> None:
    """Functions by ours; not matmul, which models also use for what are no floats."""
    for node in list(traced.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        func = getattr(Tensor, node.target, None) if node.op == "call_method" else node.target
        replacement = replacement_of(func, node.args, node.kwargs)
        if replacement is None or replacement[0] is matmul:
            continue
        ours, given = replacement
        with traced.graph.inserting_before(node):
            call = traced.graph.call_function(ours, node.args, given)
        call.meta["is_wrapped"] = True  # unpickling traces the graph again, and must not enter it
        node.replace_all_uses_with(call)
        traced.graph.erase_node(node)
