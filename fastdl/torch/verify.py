"""verify(model, batch): every patched layer against the same layer in float64."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastdl.torch.library import core
from fastdl.torch.patch import original_class, unpatch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class LayerCheck:
    """The largest errors of a layer's result and gradients, in eps times the largest true value."""

    name: str
    kind: str
    kernel: str
    error: float
    torch_error: float

    @property
    def ok(self) -> bool:
        """Within 16 for convolution and its like, or within 4 of twice PyTorch's own error."""
        return self.error <= max(16.0, 2 * self.torch_error + 4)


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found; prints as a table."""

    layers: tuple[LayerCheck, ...]

    @property
    def ok(self) -> bool:
        return all(layer.ok for layer in self.layers)

    def __str__(self) -> str:
        width = max([len("layer"), *(len(layer.name) for layer in self.layers)])
        lines = [f"{'layer':{width}}  {'class':18}  {'error':>8}  {'PyTorch':>8}       kernel"]
        lines += [
            f"{layer.name:{width}}  {layer.kind:18}  {layer.error:8.2f}  {layer.torch_error:8.2f}  "
            f"{'ok ' if layer.ok else 'BAD'}  {layer.kernel}"
            for layer in self.layers
        ]
        return "\n".join([*lines, "errors in eps x largest value, of results and gradients"])


def verify(model: torch.nn.Module, *batch: Any) -> VerifyReport:
    """Run each patched layer of a model, forward and gradients, against float64.

    The model runs once on the batch to see what each layer is given. Then a copy of the layer
    computes result and gradients by fastdl, one by PyTorch, and one by PyTorch in float64, which is
    the truth. The model itself is not changed. Layers that drop out at random are left out.

    Parameters
    ----------
    model : a model on which :func:`fastdl.torch.patch` was called; in training or evaluation mode.
    batch : its arguments.

    Returns
    -------
    A :class:`VerifyReport`: ``ok``, and a :class:`LayerCheck` per layer that was called.

    Examples
    --------
    >>> import torch, fastdl.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU())
    >>> report = fastdl.torch.patch(model)
    >>> fastdl.torch.verify(model, torch.ones(2, 4)).ok
    True
    """
    inputs: dict[str, Arguments] = {}
    names = {module: name for name, module in model.named_modules()}

    def remember(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        inputs.setdefault(names[module], _mapped(lambda x: x.detach().clone(), (args, kwargs)))

    layers = [module for module in names if original_class(module) and not _is_random(module)]
    hooks = [layer.register_forward_pre_hook(remember, with_kwargs=True) for layer in layers]
    state = copy.deepcopy(model.state_dict())
    try:
        with torch.no_grad():
            model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
        model.load_state_dict(state)  # running statistics have moved
    return VerifyReport(
        tuple(
            _check(names[layer], layer, inputs[names[layer]])
            for layer in layers
            if names[layer] in inputs
        )
    )


def _is_random(module: torch.nn.Module) -> bool:
    p = getattr(module, "p", 0.0) if isinstance(module, torch.nn.Dropout) else 0.0
    if isinstance(module, torch.nn.MultiheadAttention):
        p = module.dropout
    return module.training and (p > 0 or any(map(_is_random, module.children())))


def _check(name: str, layer: torch.nn.Module, arguments: Arguments) -> LayerCheck:
    kind = original_class(layer)
    assert kind is not None
    theirs, truth = copy.deepcopy(layer), copy.deepcopy(layer).double()
    unpatch(theirs)
    unpatch(truth)
    results = _results(copy.deepcopy(layer), arguments)
    kernel = core.last_trace()["kernel"]
    reference = _results(truth, _mapped(lambda x: _in(torch.float64, x), arguments))
    error, torch_error = (
        max(map(_error, values, reference), default=0.0)
        for values in (results, _results(theirs, arguments))
    )
    return LayerCheck(name, kind.__name__, kernel, error, torch_error)


def _results(layer: torch.nn.Module, arguments: Arguments) -> list[Tensor]:
    """The results, and the gradients of every argument and parameter by one and the same dy."""
    leaves: list[Tensor] = []

    def made(x: Tensor) -> Tensor:
        leaves.append(x.detach().clone().requires_grad_(x.is_floating_point()))
        # In place, a layer may not overwrite a leaf.
        return leaves[-1] * 1 if x.is_floating_point() else leaves[-1]

    args, kwargs = _mapped(made, arguments)
    results = layer(*args, **kwargs)
    y, *others = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(0)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    wanted = [x for x in (*leaves, *layer.parameters()) if x.requires_grad]
    gradients = torch.autograd.grad(y, wanted, dy, allow_unused=True) if y.requires_grad else ()
    return [x.detach() for x in (y, *others, *gradients) if x is not None]


def _mapped(function: Callable[[Tensor], Tensor], arguments: Arguments) -> Arguments:
    """The arguments with every tensor mapped, once if it is given several times."""
    done: dict[int, Tensor] = {}

    def once(x: Tensor) -> Tensor:
        if id(x) not in done:
            done[id(x)] = function(x)
        return done[id(x)]

    mapped: Arguments = tree_map_only(Tensor, once, arguments)
    return mapped


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def _error(actual: Tensor, truth: Tensor) -> float:
    if truth.numel() == 0:
        return 0.0
    scale = truth.abs().max() * torch.finfo(actual.dtype).eps
    error: float = ((actual.double() - truth).abs().max() / scale.clamp_min(1e-300)).item()
    return error
