"""patch(model): the same modules, running fastdl's kernels; unpatch(model): as before."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from fastdl.torch.nn import MODULES

_ORIGINALS = {ours: original for original, ours in MODULES.items()}


@dataclass(frozen=True)
class Entry:
    """What became of one module."""

    name: str
    kind: str
    replaced: bool
    reason: str = ""


@dataclass(frozen=True)
class PatchReport:
    """What :func:`patch` did; prints as a table."""

    entries: tuple[Entry, ...]

    @property
    def replaced(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.replaced)

    @property
    def skipped(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.replaced)

    def __str__(self) -> str:
        rows = [("module", "count", "")]
        counts = Counter((entry.kind, entry.replaced, entry.reason) for entry in self.entries)
        for (kind, replaced, reason), count in sorted(
            counts.items(), key=lambda item: not item[0][1]
        ):
            rows.append((kind, str(count), "fastdl" if replaced else f"as it was: {reason}"))
        width = max(len(kind) for kind, _, _ in rows)
        return "\n".join(
            f"{kind:{width}}  {count:>5}  {what}".rstrip() for kind, count, what in rows
        )


def patch(model: torch.nn.Module) -> PatchReport:
    """Make the modules of a model run fastdl's kernels, in place.

    Every module of a PyTorch class with a counterpart in :mod:`fastdl.torch.nn` becomes one of that
    class. Parameters, buffers, hooks, ``state_dict`` and the modules themselves stay
    the same objects, so optimisers and references hold. Functions that ``forward`` methods call are
    left alone: see :func:`fastdl.torch.override`.

    Parameters
    ----------
    model : any module; one that is patched already stays so.

    Returns
    -------
    A :class:`PatchReport` with an entry for every module without children or with a counterpart.

    Examples
    --------
    >>> import torch, fastdl.torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Softplus())
    >>> print(fastdl.torch.patch(model))
    module    count
    Linear        1  fastdl
    ReLU          1  fastdl
    Softplus      1  as it was: no counterpart
    >>> isinstance(model[0], torch.nn.Linear)
    True
    """
    entries = []
    for name, module in model.named_modules():
        kind = type(module)
        ours = MODULES.get(kind)
        if ours is not None:
            module.__class__ = ours
        if ours is not None or kind in _ORIGINALS:
            entries.append(Entry(name, kind.__name__, True))
        # MultiheadAttention's out_proj is parameters alone: nobody calls its forward.
        elif (
            not any(True for _ in module.children()) and kind is not NonDynamicallyQuantizableLinear
        ):
            entries.append(Entry(name, kind.__name__, False, _reason(kind)))
    return PatchReport(tuple(entries))


def unpatch(model: torch.nn.Module) -> None:
    """Undo :func:`patch`: every module is again of the class it was."""
    for module in model.modules():
        original = original_class(module)
        if original is not None:
            module.__class__ = original


@contextmanager
def patched(model: torch.nn.Module) -> Iterator[PatchReport]:
    """``with patched(model) as report:``: a model that is patched inside, and as before after."""
    before = {module: type(module) for module in model.modules()}
    report = patch(model)
    try:
        yield report
    finally:
        for module, kind in before.items():
            module.__class__ = kind


def original_class(module: torch.nn.Module) -> type[torch.nn.Module] | None:
    """PyTorch's class of a patched module; None for any other."""
    return _ORIGINALS.get(type(module))


# Where PyTorch's own kernels are as fast as what ours would take.
_AS_FAST = (torch.nn.GroupNorm,)


def _reason(kind: type[torch.nn.Module]) -> str:
    if kind in _AS_FAST:
        return "PyTorch's is as fast"
    for original in MODULES:
        if issubclass(kind, original):
            return f"a subclass of {original.__name__}"
    return "no counterpart"
