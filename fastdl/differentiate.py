"""The one uniform way to a gradient: ``vjp``."""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from fastdl._tensors import is_array
from fastdl._typing import Array

# What a rule returns: y, and (dy, names) -> {name of an array argument: its gradient}; gradients of
# arguments whose names are not asked for may be left out.
VJP: TypeAlias = tuple[Any, Callable[[Any, Collection[str]], dict[str, Any]]]
Rule: TypeAlias = Callable[..., VJP]

_rules: dict[Callable[..., Any], Rule] = {}
_signature = functools.cache(inspect.signature)  # 7 us each time


def vjp_rule(op: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Registers the decorated function, of op's own arguments, as the way to op's gradient."""

    def register(rule: Rule) -> Rule:
        _rules[op] = rule
        return rule

    return register


def vjp(
    op: Callable[..., Any], *args: Any, wrt: Collection[str] | None = None, **kwargs: Any
) -> tuple[Any, Callable[[Any], Any]]:
    """Result of an op, and the function that pulls a gradient of the result back to its arguments.

    ``y, pullback = vjp(op, *args, **kwargs)`` computes ``y = op(*args, **kwargs)`` once and keeps
    what the gradient needs. ``pullback(dy)`` returns the vector-Jacobian products, as in
    `torch.func.vjp <https://docs.pytorch.org/docs/2.13/generated/torch.func.vjp.html>`_.

    Parameters
    ----------
    op : a differentiable function of fastdl, such as ``fastdl.softmax``.
    *args, **kwargs : its arguments; ``out`` and ``inplace`` make no sense here and are refused.
    wrt : names of the arguments whose gradients are wanted, such as ``("weight", "bias")`` for the
        first layer of a network; the others are not computed. None for all arrays.

    Returns
    -------
    y : what op returns.
    pullback : a function of dy (y's shape and dtype) that returns a tuple with one gradient per
        array argument, in the order of op's signature; None for one that is not wanted, or not
        differentiable, such as class indices or running statistics.

    Raises
    ------
    TypeError : op is not differentiable, or does not take these arguments.
    ValueError : wrt names something that is no array argument of the call.

    Examples
    --------
    >>> import numpy as np, fastdl
    >>> y, pullback = fastdl.vjp(fastdl.softmax, np.zeros((1, 2)), dim=1)
    >>> pullback(np.array([[1.0, 0.0]]))
    (array([[ 0.25, -0.25]]),)
    """
    rule = _rules.get(op)
    name = getattr(op, "__name__", repr(op))
    if rule is None:
        raise TypeError(f"[vjp] {name} has no gradient; see fastdl.differentiable_ops()")
    arguments = _signature(op).bind(*args, **kwargs).arguments
    for refused in ("out", "inplace"):
        value = arguments.pop(refused, None)
        if value is not None and value is not False:
            raise TypeError(f"[vjp] {name} cannot be differentiated with {refused}=")
    arrays = [key for key, value in arguments.items() if is_array(value)]
    wanted = arrays if wrt is None else wrt
    for key in wanted:
        if key not in arrays:
            raise ValueError(f"[vjp] wrt names {key!r}; the arrays given are {', '.join(arrays)}")
    y, gradients_of = rule(**arguments)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        gradients = gradients_of(dy, wanted)
        return tuple(gradients.get(key) if key in wanted else None for key in arrays)

    return y, pullback


def differentiable_ops() -> list[str]:
    """The names of the functions ``vjp`` takes.

    >>> import fastdl
    >>> "softmax" in fastdl.differentiable_ops()
    True
    """
    return sorted(op.__name__ for op in _rules)
