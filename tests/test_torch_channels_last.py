"""Channels-last images stay channels-last, through every op and its gradients."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

import fastdl  # noqa: E402
import fastdl.torch.functional as ours  # noqa: E402
from tests.cuda import CUDA  # noqa: E402
from tests.testing import num_threads  # noqa: E402

LAST = torch.channels_last
PRODUCT, DEPTHWISE = "matrix product", "depthwise, lanes along the channels"
LANES = "lanes along the channels"


def tensor(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def conv(shape: Any, weight: Any, kernel: str | None = None, bias: bool = True, **options: Any):
    parameters = [tensor(*weight, seed=1), *([tensor(weight[0], seed=2)] if bias else [])]
    text = ",".join(f"{k}={v}" for k, v in options.items())
    name = f"conv2d {shape} {weight} {text}"
    return pytest.param("conv2d", shape, parameters, options, kernel, id=name)


def pool(name: str, shape: Any, *args: Any, kernel: str | None = LANES, **options: Any):
    return pytest.param(name, shape, list(args), options, kernel, id=f"{name} {shape} {args}")


# Channels around the lanes (4, 8, 16), pixels around a band of 64.
CASES = [
    conv((2, 5, 4, 7), (3, 5, 1, 1)),
    conv((2, 64, 9, 8), (70, 64, 1, 1), bias=False),
    conv((2, 5, 4, 7), (3, 5, 1, 1), stride=2),
    conv((2, 17, 8, 9), (18, 17, 1, 1), stride=(3, 2)),
    conv((2, 5, 4, 7), (3, 5, 1, 1), padding=1),
    *[conv((2, c, 5, 9), (c, 1, 3, 3), DEPTHWISE, padding=1, groups=c) for c in (2, 15, 16, 33)],
    conv((1, 19, 8, 11), (19, 1, 3, 3), DEPTHWISE, padding=1, stride=2, groups=19),
    conv((1, 5, 11, 8), (5, 1, 5, 3), DEPTHWISE, False, padding=(4, 1), stride=(3, 1), groups=5),
    conv((2, 5, 9, 13), (5, 1, 3, 3), DEPTHWISE, padding=2, dilation=(2, 3), groups=5),
    conv((1, 5, 7, 6), (5, 1, 2, 2), DEPTHWISE, stride=3, groups=5),  # x that no window reads
    conv((1, 3, 2, 2), (3, 1, 7, 7), DEPTHWISE, padding=3, groups=3),  # more padding than x
    conv((3, 17, 40, 41), (17, 1, 3, 3), DEPTHWISE, padding=1, groups=17),  # several blocks
    conv((2, 4, 9, 8), (8, 1, 3, 3), padding=1, groups=4),
    conv((2, 8, 9, 8), (8, 4, 3, 3), padding=1, groups=2),
    conv((2, 20, 13, 12), (24, 20, 3, 3), padding=1),
    conv((2, 3, 17, 19), (16, 3, 7, 7), stride=2, padding=3),
    *[
        pytest.param(
            "batch_norm", (2, c, 5, 9), [None, None], {"training": True}, None, id=f"bn {c}"
        )
        for c in (1, 2, 17)
    ],
    pool("max_pool2d", (2, 5, 8, 9), 2),
    pool("max_pool2d", (1, 17, 9, 8), 3, 2, 1),
    pool("max_pool2d", (1, 16, 7, 5), (3, 2), 1, 1, 1, True),
    pool("max_pool2d", (1, 3, 19, 18), 17, 1, 8, kernel=None),  # more than 256 elements
    pool("max_pool2d", (1, 3, 9, 9), 3, 1, 1, 2, kernel=None),  # dilated
    pool("max_pool2d", (2, 5, 4, 4), 4),  # to a single pixel
    pool("avg_pool2d", (2, 5, 8, 9), 2),
    pool("avg_pool2d", (1, 17, 9, 8), 3, 2, 1, True, False),
    pool("avg_pool2d", (1, 16, 7, 5), (3, 2), 3, 1, False, True, 5),
    pool("avg_pool2d", (1, 6, 20, 21), 19, 1),  # more elements than a sum of one go
    pool("adaptive_avg_pool2d", (2, 17, 7, 9), 1),
    pool("adaptive_avg_pool2d", (2, 5, 7, 9), (3, 4)),
    pool("adaptive_avg_pool2d", (1, 5, 3, 2), (4, 5)),
    pool("adaptive_max_pool2d", (2, 17, 7, 9), 1),
    pool("adaptive_max_pool2d", (2, 5, 7, 9), (3, 4)),
    pool("adaptive_max_pool2d", (1, 5, 3, 2), (4, 5)),
    pool("adaptive_max_pool2d", (1, 2, 17, 18), 1, kernel=None),  # more than 256 elements
]


def last(x: Any, dtype: Any) -> Any:
    layout = LAST if x.dim() == 4 else torch.contiguous_format
    return x.to(dtype).contiguous(memory_format=layout).detach().requires_grad_()


def run(module: Any, name: str, shape: Any, args: Any, options: Any, dtype: Any, dy_layout=LAST):
    """y and the gradients of x and the parameters, all of them given channels-last."""
    x = last(tensor(*shape), dtype)
    made = [last(arg, dtype) if isinstance(arg, torch.Tensor) else arg for arg in args]
    y = getattr(module, name)(x, *made, **options)
    kernel = fastdl._core.last_trace()["kernel"]
    dy = tensor(*y.shape, seed=3).to(dtype).contiguous(memory_format=dy_layout)
    inputs = [x, *(arg for arg in made if isinstance(arg, torch.Tensor))]
    return [y.detach(), *torch.autograd.grad(y, inputs, dy)], kernel


def check(results: Any, name: str, shape: Any, args: Any, options: Any, dtype: Any) -> None:
    # As torch's own in float64 of the same rounded numbers.
    rounded = [arg.to(dtype) if isinstance(arg, torch.Tensor) else arg for arg in args]
    x = tensor(*shape).to(dtype).double().requires_grad_()
    made = [a.double().requires_grad_() if isinstance(a, torch.Tensor) else a for a in rounded]
    y = getattr(F, name)(x, *made, **options)
    dy = tensor(*y.shape, seed=3).to(dtype).double()
    inputs = [x, *(arg for arg in made if isinstance(arg, torch.Tensor))]
    for actual, expected in zip(
        results, [y.detach(), *torch.autograd.grad(y, inputs, dy)], strict=True
    ):
        scale = 1 + expected.abs().max().item()
        torch.testing.assert_close(
            actual.double(), expected, rtol=0, atol=16 * torch.finfo(dtype).eps * scale
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "shape", "args", "options", "kernel"), CASES)
def test_values_and_layouts(isa, name, shape, args, options, kernel, dtype):
    results, used = run(ours, name, shape, args, options, dtype)
    check(results, name, shape, args, options, dtype)
    assert not kernel or used == kernel or isa == CUDA
    y, dx, *gradients = results
    assert y.is_contiguous(memory_format=LAST) and dx.is_contiguous(memory_format=LAST)
    for gradient, parameter in zip(gradients, args, strict=False):
        assert gradient.dim() < 4 or gradient.is_contiguous(memory_format=LAST), parameter.shape


@pytest.mark.parametrize(("name", "shape", "args", "options", "kernel"), CASES)
def test_gradients_in_the_other_layout(name, shape, args, options, kernel):
    (y, dx, *others), _ = run(ours, name, shape, args, options, torch.float32, LAST)
    given = run(ours, name, shape, args, options, torch.float32, torch.contiguous_format)[0]
    assert dx.stride() == given[1].stride()
    torch.testing.assert_close([y, dx, *others], given, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "shape", "args", "options", "kernel"), CASES)
def test_the_fake_has_the_layout(name, shape, args, options, kernel):
    torch._dynamo.reset()
    eager = run(ours, name, shape, args, options, torch.float32)[0]
    x = last(tensor(*shape), torch.float32)
    made = [last(a, torch.float32) if isinstance(a, torch.Tensor) else a for a in args]
    call = lambda x, *made: getattr(ours, name)(x, *made, **options) * 2  # noqa: E731
    y = torch.compile(call, fullgraph=True, backend="aot_eager")(x, *made)
    assert y.stride() == eager[0].stride()
    dy = tensor(*y.shape, seed=3).float().contiguous(memory_format=LAST)
    torch.testing.assert_close(torch.autograd.grad(y, x, dy)[0], 2 * eager[1])


@pytest.mark.parametrize(("name", "shape", "args", "options", "kernel"), CASES)
def test_same_bits_for_any_threads(name, shape, args, options, kernel):
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            results.append(run(ours, name, shape, args, options, torch.float32)[0])
    torch.testing.assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["max_pool2d", "adaptive_max_pool2d"])
def test_nan_and_signed_zeros(isa, name):
    x = torch.tensor([0.0, -0.0, 1, float("nan"), -1, 2, float("inf"), -float("inf")])
    x = x[:, None].expand(1, 17, 8, 2).contiguous(memory_format=LAST)
    window = (2, 2) if name == "max_pool2d" else (4, 1)
    y = getattr(ours, name)(x, window)
    expected = getattr(ours, name)(x.contiguous(), window)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(y), torch.signbit(expected))


@pytest.mark.parametrize(
    "shape",
    # the last: past the caches
    [(3, 5, 7, 11), (2, 64, 9, 8), (1, 17, 130, 1), (2, 3, 1, 65), (1, 64, 256, 260)],
)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_conversion(isa, shape, dtype):
    x = tensor(*shape).to(dtype)
    there = x.contiguous(memory_format=LAST)
    # softmax gets a copy, and NCHW is what comes out.
    assert torch.equal(ours.softmax(there, 1), ours.softmax(x, 1))
    # An identity, by the depthwise kernel and back: dy is laid out like x.
    window = torch.ones(shape[1], 1, 1, 1, dtype=dtype)
    x_ = there.detach().requires_grad_()
    y = ours.conv2d(x_, window, groups=shape[1])
    (dx,) = torch.autograd.grad(y, x_, x)
    assert torch.equal(dx, x) and torch.equal(y, x)


def test_negated_views_are_resolved():
    negated = torch._neg_view(tensor(2, 3, 5, 4).contiguous(memory_format=LAST))
    assert negated.is_neg()
    torch.testing.assert_close(ours.avg_pool2d(negated, 2), F.avg_pool2d(negated, 2))
    torch.testing.assert_close(ours.softmax(negated, 1), F.softmax(negated, 1))
