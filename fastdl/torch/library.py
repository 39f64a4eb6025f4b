"""How an op becomes one of PyTorch's: ``torch.ops.fastdl.<op>``, its gradient, and the short way.

An op has three ways in, and one public function that takes the right one:

- plain tensors in eager mode call ``fastdl._core`` directly, inside an ``autograd.Function`` if a
  gradient may be asked for. PyTorch's dispatcher would cost 1.3 microseconds more per call.
- under ``torch.compile`` and ``torch.export``, and for subclasses of Tensor, it is the operator
  ``torch.ops.fastdl.<op>``, whose gradient is the same Function.
- under ``torch.func`` transforms and forward-mode differentiation it is PyTorch's own op, its twin:
  what works there works here.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastdl import _core

# The native module, whose stubs speak of NumPy's arrays: here it takes and returns tensors.
core: Any = _core
_LIBRARY = torch.library.Library("fastdl", "DEF")
PLAIN = (Tensor, torch.nn.Parameter)
HALF_DTYPES = (torch.bfloat16, torch.float16)
FLOAT_DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)
_BUILT_WITH_CUDA = _core.build_config()["cuda"] not in ("not built", "emulated")
DEVICES = ("cpu", "cuda") if _BUILT_WITH_CUDA else ("cpu",)


def _allows_tf32(products: str) -> bool:
    """What ``torch.backends`` says of float32 on a device; products are "matmul" or "conv"."""
    return bool(torch._C._get_fp32_precision_getter("cuda", products) == "tf32")


core.follow_tf32(Tensor, _allows_tf32)


def is_direct(*args: Any) -> bool:
    """Whether nothing of PyTorch's stands between the caller and the native module."""
    if torch.compiler.is_compiling() or is_transformed():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._autograd._profiler_enabled():
        return False
    for arg in args:  # noqa: SIM110 (a generator takes 0.3 microseconds more)
        if type(arg) not in PLAIN and isinstance(arg, Tensor):
            return False
    return True


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def define(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
) -> Callable[..., Any]:
    """Make ``torch.ops.fastdl.<name>``; return a function that skips it where it can.

    Parameters
    ----------
    schema : its signature in PyTorch's notation, ``"name(Tensor x, int dim) -> Tensor"``.
    kernel : the function of plain tensors on one of ``DEVICES``, arguments by position.
    fake : the same without the arithmetic: tensors of the results' shapes and dtypes.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in DEVICES:
        _LIBRARY.impl(name, kernel, device.upper())
    torch.library.register_fake(f"fastdl::{name}", fake, lib=_LIBRARY)
    op = getattr(torch.ops.fastdl, name).default

    def run(*args: Any) -> Any:
        return kernel(*args) if is_direct(*args) else op(*args)

    return run


class Function(torch.autograd.Function):
    """An op with a gradient. A subclass has torch's ``setup_context`` and ``backward``, and:"""

    schema: str
    kernel: Callable[..., Any]
    twin: Callable[..., Any]  # PyTorch's own, of the same arguments
    keeps_channels_last = False
    record: Callable[..., Any]  # apply without its default arguments, which cost 10 microseconds
    op: Callable[..., Any]

    @classmethod
    def fake(cls, *args: Any) -> Any:
        y = contiguous_like(cls.twin(*args))
        return in_layout_of(args[0], y) if cls.keeps_channels_last else y

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in vars(cls):  # the one of an operator, made below
            return
        name = cls.schema.partition("(")[0]
        define(cls.schema, cls.kernel, cls.fake)
        op = getattr(torch.ops.fastdl, name).default

        def forward(*args: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return op(*args)

        dispatched = record(type(cls.__name__, (cls,), {"forward": staticmethod(forward)}))

        def autograd(*args: Any) -> Any:
            return dispatched(*args) if needs_grad(*args) else forward(*args)

        cls.op = staticmethod(op)
        cls.forward = staticmethod(cls.kernel)  # type: ignore[method-assign]
        cls.record = record(cls)
        _LIBRARY.impl(name, autograd, "Autograd")

    @classmethod
    def call(cls, *args: Any) -> Any:
        """The op, by the way that fits where the caller is."""
        if is_direct(*args):
            return cls.record(*args) if needs_grad(*args) else cls.kernel(*args)
        if not torch.compiler.is_compiling() and is_transformed():
            return cls.twin(*args)
        return cls.op(*args)


def record(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``function.apply`` for arguments given in full and by position."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def needs_grad(*args: Any) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*args)


def twin_gradients(
    twin: Callable[..., Any], inputs: tuple[Tensor | None, ...], needed: tuple[bool, ...], dy: Any
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of PyTorch's own op.

    ``twin`` is a function of ``inputs``; the result has None where no gradient is needed.
    """
    wanted: list[Any] = [x for x, need in zip(inputs, needed, strict=True) if need]
    with torch.enable_grad():
        gradients = iter(torch.autograd.grad(twin(*inputs), wanted, dy, create_graph=True))
    return [next(gradients) if need else None for need in needed]


def contiguous_like(y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def fake_gradients(
    of: Iterable[Tensor | None],
    output_mask: Sequence[bool],
    like: Callable[[Any], Tensor] = contiguous_like,
) -> tuple[Tensor | None, ...]:
    """What an op's fake returns for the gradients of some arguments, None where not asked for."""
    return tuple(like(x) if wanted else None for x, wanted in zip(of, output_mask, strict=True))


def is_channels_last(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def in_layout(channels_last: bool, y: Tensor) -> Tensor:
    return y.contiguous(memory_format=torch.channels_last) if channels_last else y


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    return in_layout(is_channels_last(x), y)


def image_like(y: Tensor) -> Tensor:
    return in_layout_of(y, contiguous_like(y))


def on_elements(kernel: Callable[..., Tensor], tensors: int = 1) -> Callable[..., Tensor]:
    """An elementwise kernel, of so many tensors, that takes channels-last ones as they lie.

    The result lies as the last of them: for a gradient that is x, and dy may be expanded.
    """

    def run(*args: Any) -> Tensor:
        if not is_channels_last(args[tensors - 1]):
            return kernel(*args)
        permuted = (x.permute(0, 2, 3, 1) for x in args[:tensors])
        return kernel(*permuted, *args[tensors:]).permute(0, 3, 1, 2)

    return run


def _autocasts(tensors: Sequence[Tensor | None]) -> str | None:
    """The kind of device of the first tensor, if ``torch.autocast`` is on for it."""
    if not torch._C._is_any_autocast_enabled():
        return None
    first = next((x for x in tensors if x is not None), None)
    if first is None or not torch.is_autocast_enabled(first.device.type):
        return None
    return first.device.type


def lower_precision(*tensors: Tensor | None) -> tuple[Any, ...]:
    """What ``torch.autocast`` makes of the arguments of a product or a convolution."""
    device = _autocasts(tensors)
    if not device:
        return tensors
    dtype = torch.get_autocast_dtype(device)
    casts = (torch.float32, *HALF_DTYPES)
    return tuple(x.to(dtype) if x is not None and x.dtype in casts else x for x in tensors)


def full_precision(*tensors: Tensor | None) -> tuple[Any, ...]:
    """What ``torch.autocast`` makes of the arguments of a loss; on CUDA, of a softmax or norm."""
    if not _autocasts(tensors):
        return tensors
    return tuple(x.float() if x is not None and x.dtype in HALF_DTYPES else x for x in tensors)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A height and a width from one int, or from one or two of them."""
    if isinstance(value, Sequence):
        if len(value) not in (1, 2):
            raise ValueError(f"expected a height and a width, got {tuple(value)}")
        return (value[0], value[-1])
    return (value, value)


def statistics_like(x: Tensor, shape: Sequence[int]) -> Tensor:
    """What kernels return beside a result: of x's dtype, but never of 16 bits."""
    return x.new_empty(shape, dtype=torch.float32 if x.dtype in HALF_DTYPES else x.dtype)
