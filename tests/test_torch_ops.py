"""torch.ops.fastdl.*: what PyTorch asks of an operator, and that results are PyTorch's."""

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

import fastdl  # noqa: E402
import fastdl.torch.functional as ours  # noqa: E402

# PyTorch's own, when it first derives a decomposition.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]


def randn(*shape: int, seed: int = 0, grad: bool = True, dtype: Any = None) -> Any:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype or torch.float64).requires_grad_(grad)


def images(dtype: Any = None) -> Any:
    return randn(2, 4, 9, 8, dtype=dtype)


def small_images(dtype: Any = None) -> Any:
    return randn(2, 4, 3, 2, dtype=dtype)


def case(name: str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
    """A call of ours.<name> and of torch's; the tensors are made by functions of the dtype."""
    return pytest.param(name, args, kwargs, id=id or name)


X = lambda dtype: randn(3, 5, 7, dtype=dtype)  # noqa: E731
CASES = [
    *(
        case(name, X)
        for name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu")
    ),
    case("gelu", X, approximate="tanh", id="gelu tanh"),
    case("leaky_relu", X, 0.2, id="leaky_relu 0.2"),
    case("softmax", X, 1),
    case("softmax", X, dim=-1, dtype=torch.float32, id="softmax dtype"),
    case("log_softmax", X, 2),
    case("layer_norm", X, (7,), lambda d: randn(7, dtype=d), lambda d: randn(7, seed=1, dtype=d)),
    case("layer_norm", X, (5, 7), id="layer_norm plain"),
    case("matmul", X, lambda d: randn(7, 4, dtype=d)),
    case("matmul", X, lambda d: randn(7, dtype=d), id="matmul vector"),
    case("addmm", *(lambda d, s=s: randn(*s, dtype=d) for s in ((4,), (5, 7), (7, 4)))),
    case("linear", X, lambda d: randn(6, 7, dtype=d), lambda d: randn(6, dtype=d)),
    case("linear", X, lambda d: randn(6, 7, dtype=d), id="linear without bias"),
    case("conv2d", images, lambda d: randn(6, 4, 3, 3, dtype=d), lambda d: randn(6, dtype=d)),
    case(
        "conv2d",
        images,
        lambda d: randn(6, 2, 3, 2, dtype=d),
        stride=(2, 1),
        padding=1,
        dilation=2,
        groups=2,
        id="conv2d in groups",
    ),
    case("conv2d", images, lambda d: randn(6, 4, 2, 3, dtype=d), padding="same", id="conv2d same"),
    case(
        "conv2d",
        lambda d: randn(4, 3, 4, dtype=d),
        lambda d: randn(2, 4, 2, 3, dtype=d),
        lambda d: randn(2, dtype=d),
        id="conv2d of one image",
    ),
    case("conv1d", lambda d: randn(2, 4, 9, dtype=d), lambda d: randn(6, 4, 3, dtype=d)),
    case(
        "conv1d",
        lambda d: randn(4, 9, dtype=d),
        lambda d: randn(6, 2, 2, dtype=d),
        lambda d: randn(6, dtype=d),
        2,
        (1,),
        dilation=3,
        groups=2,
        id="conv1d in groups",
    ),
    case("conv_transpose2d", small_images, lambda d: randn(4, 6, 2, 2, dtype=d), stride=2),
    case(
        "conv_transpose2d",
        small_images,
        lambda d: randn(4, 3, 3, 2, dtype=d),
        lambda d: randn(6, dtype=d),
        (2, 3),
        1,
        (1, 2),
        2,
        (1, 2),
        id="conv_transpose2d in groups",
    ),
    case("max_pool2d", images, 2),
    case("max_pool2d", images, (3, 2), 2, 1, ceil_mode=True, id="max_pool2d ceil"),
    case("max_pool2d", images, 5, 3, 1, id="max_pool2d 5x5"),
    case("avg_pool2d", images, 2),
    case("avg_pool2d", images, 3, 2, 1, True, False, id="avg_pool2d ceil"),
    case("adaptive_avg_pool2d", images, (3, None)),
    case("adaptive_max_pool2d", images, 3),
    case("adaptive_max_pool2d", images, 1, id="adaptive_max_pool2d global"),
    case("batch_norm", images, None, None, training=True, id="batch_norm plain"),
    case(
        "batch_norm",
        images,
        None,
        None,
        lambda d: randn(4, dtype=d),
        lambda d: randn(4, seed=1, dtype=d),
        True,
        id="batch_norm",
    ),
    case(
        "batch_norm",
        images,
        lambda d: randn(4, grad=False, dtype=d),
        lambda d: randn(4, grad=False, dtype=d).abs(),
        lambda d: randn(4, dtype=d),
        id="batch_norm evaluation",
    ),
    case("nll_loss", lambda d: randn(5, 3, dtype=d), lambda d: torch.tensor([0, 2, 1, -100, 2])),
    case(
        "cross_entropy",
        lambda d: randn(5, 3, dtype=d),
        lambda d: torch.tensor([0, 2, 1, -100, 2]),
        lambda d: randn(3, grad=False, dtype=d).abs(),
        label_smoothing=0.1,
    ),
    case(
        "cross_entropy",
        lambda d: randn(5, 3, dtype=d),
        lambda d: randn(5, 3, seed=1, dtype=d).detach().softmax(1).requires_grad_(),
        reduction="sum",
        id="cross_entropy probabilities",
    ),
    case("scaled_dot_product_attention", *[lambda d: randn(2, 2, 5, 4, dtype=d)] * 3),
    case(
        "scaled_dot_product_attention",
        *[lambda d: randn(2, 2, 5, 4, dtype=d)] * 3,
        lambda d: randn(5, 5, seed=2, dtype=d),
        scale=0.3,
        id="scaled_dot_product_attention mask",
    ),
    case(
        "scaled_dot_product_attention",
        *[lambda d: randn(2, 2, 5, 4, dtype=d)] * 3,
        is_causal=True,
        id="scaled_dot_product_attention causal",
    ),
]


def theirs(name: str) -> Callable[..., Any]:
    return getattr(F, name, None) or getattr(torch, name)


def made(args: tuple[Any, ...], dtype: Any) -> list[Any]:
    return [arg(dtype) if callable(arg) else arg for arg in args]


def differentiable(args: list[Any]) -> list[Any]:
    return [arg for arg in args if isinstance(arg, torch.Tensor) and arg.requires_grad]


def gradients(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    y = function(*args, **kwargs)
    dy = torch.empty_like(y, requires_grad=False).copy_(randn(*y.shape, seed=9, grad=False))
    return y, torch.autograd.grad(y, differentiable(args), dy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_results_and_gradients_are_torchs(name, args, kwargs, dtype):
    ours_y, ours_gradients = gradients(getattr(ours, name), made(args, dtype), kwargs)
    y, expected = gradients(theirs(name), made(args, dtype), kwargs)
    tolerance = 32 * max(torch.finfo(dtype).eps, torch.finfo(y.dtype).eps)
    torch.testing.assert_close(ours_y, y, rtol=tolerance, atol=tolerance)
    for actual, gradient in zip(ours_gradients, expected, strict=True):
        scale = 1 + gradient.abs().max().item()
        torch.testing.assert_close(actual, gradient, rtol=0, atol=tolerance * scale)


# gradcheck needs float64 throughout.
@pytest.mark.parametrize(
    ("name", "args", "kwargs"), [case for case in CASES if "dtype" not in case.values[2]]
)
def test_gradcheck(name, args, kwargs):
    inputs = made(args, torch.float64)
    call = lambda *inputs: getattr(ours, name)(*inputs, **kwargs)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), [case for case in CASES if hasattr(fastdl, case.values[0])]
)
def test_functions_of_arrays_take_tensors(name, args, kwargs):
    y, given = gradients(getattr(fastdl, name), made(args, torch.float32), kwargs)
    expected, reference = gradients(getattr(ours, name), made(args, torch.float32), kwargs)
    torch.testing.assert_close((y, given), (expected, reference), rtol=0, atol=0)


def test_a_tensor_by_keyword_keeps_its_gradient():
    assert fastdl.softmax(x=randn(3), dim=0).requires_grad


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """The calls of torch.ops.fastdl.* that are made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "fastdl":
            detached = torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, args)
            self.calls.append((op, detached))
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [case for case in CASES if case.values[0] != "conv1d"],  # whose operator is conv2d's
)
def test_opcheck(name, args, kwargs):
    with Recorder() as recorder:
        gradients(getattr(ours, name), made(args, torch.float32), kwargs)
    assert len(recorder.calls) == 2
    for op, arguments in recorder.calls:
        torch.library.opcheck(op, arguments)
    op, arguments = recorder.calls[0]
    # The same with gradients: tensors come in the order of the public function's.
    tensors = iter(arg for arg in made(args, torch.float32) if isinstance(arg, torch.Tensor))
    torch.library.opcheck(
        op, [next(tensors) if isinstance(arg, torch.Tensor) else arg for arg in arguments]
    )


@pytest.mark.parametrize("options", [{"stride": (1, 2)}, {"stride": 0}, {"padding": "half"}])
def test_errors_of_conv1d(options):
    for function in (F.conv1d, ours.conv1d):
        with pytest.raises((ValueError, RuntimeError)):
            function(torch.zeros(2, 4, 9), torch.zeros(6, 4, 3), **options)


@pytest.fixture
def math_attention() -> Any:
    """PyTorch's other kernels of attention have no rules for its own transforms."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


@pytest.mark.usefixtures("math_attention")
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_torch_func(name, args, kwargs):
    inputs = made(args, torch.float64)
    primal = inputs[0].detach()

    def loss(x: Any) -> Any:
        return getattr(ours, name)(x, *inputs[1:], **kwargs).double().pow(2).sum()

    expected = torch.autograd.functional.jacobian(loss, primal)
    torch.testing.assert_close(torch.func.grad(loss)(primal), expected)
    stacked = torch.stack([primal, 2 * primal])
    torch.testing.assert_close(torch.vmap(loss)(stacked), torch.stack([loss(x) for x in stacked]))
    value, tangent = torch.func.jvp(loss, (primal,), (primal,))
    torch.testing.assert_close(tangent, (expected * primal).sum(), rtol=1e-6, atol=0)
    torch.testing.assert_close(value, loss(primal))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(("name", "args", "kwargs"), CASES)
def test_compile(name, args, kwargs, mode):
    torch._dynamo.reset()
    inputs = made(args, torch.float32)
    call = lambda *inputs: getattr(ours, name)(*inputs, **kwargs) * 2  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    with mode():
        torch.testing.assert_close(compiled(*inputs), call(*inputs))
    if mode is torch.enable_grad:
        for actual, expected in zip(
            gradients(compiled, inputs, {})[1], gradients(call, inputs, {})[1], strict=True
        ):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [case for case in CASES if {images, small_images} & {*case.values[1]}],
)
def test_images_keep_their_layout(name, args, kwargs, layout):
    inputs = made(args, torch.float32)
    inputs[0] = inputs[0].detach().contiguous(memory_format=layout).requires_grad_()
    y, (dx, *_) = gradients(getattr(ours, name), inputs, kwargs)
    assert y.is_contiguous(memory_format=layout)
    assert dx.is_contiguous(memory_format=layout)
