"""What is timed: one call of one op, and who makes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Call = Callable[[], Any]  # one call, with everything it needs made beforehand


@dataclass(frozen=True)
class Case:
    """A call ``op(*args(dtype), **kwargs)``; args makes its arrays anew from fixed seeds.

    calls may replace how a provider makes it: provider -> dtype -> {direction: call}, for what is
    no differentiable op of torch.nn.functional.
    """

    op: str
    name: str
    args: Callable[[Any], tuple[Any, ...]] = lambda dtype: ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    smoke: bool = False  # part of the short suite too
    calls: dict[str, Callable[[Any], dict[str, Call]]] = field(default_factory=dict)


def normal(shape: tuple[int, ...] | int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Random, never zeros: a kernel may be faster on those."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)
