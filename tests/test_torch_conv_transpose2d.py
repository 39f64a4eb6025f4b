"""conv_transpose2d: each kernel behind it, both layouts, and what is left to PyTorch."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

import fastdl.torch as ft  # noqa: E402
from fastdl import _core  # noqa: E402
from tests.testing import num_threads  # noqa: E402

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def tensor(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def case(x: Any, weight: Any, **options: Any) -> Any:
    return pytest.param(x, weight, options, id=f"{x} {weight} {options}")


CASES = [
    case((2, 6, 8, 9), (6, 5, 2, 2), stride=2),
    case((2, 32, 16, 16), (32, 24, 3, 3), padding=1),  # Winograd's
    case((2, 16, 9, 9), (16, 16, 4, 4), stride=2, padding=1),
    case((1, 5, 7, 6), (5, 7, 1, 1)),
    case((1, 5, 7, 6), (5, 7, 1, 1), stride=2, output_padding=1),
    case((2, 17, 7, 9), (17, 1, 3, 3), padding=1, groups=17),
    case((2, 17, 7, 9), (17, 1, 4, 4), stride=2, padding=1, groups=17),
    case((2, 5, 6, 7), (5, 3, 3, 3), groups=5),
    case((2, 12, 6, 7), (12, 3, 3, 3), padding=1, groups=3),
    case((2, 4, 6, 7), (4, 3, 3, 2), stride=(3, 2), output_padding=(2, 1), dilation=(2, 3)),
    case((2, 4, 6, 1), (4, 1, 5, 3), stride=(1, 5), padding=(4, 0)),  # to one channel
    case((0, 4, 6, 7), (4, 3, 3, 3)),
    case((6, 4, 5), (6, 3, 3, 3), stride=2, output_padding=1),  # one image
]


def run(function: Any, x: Any, weight: Any, bias: Any, options: Any) -> list[Any]:
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(inputs[0], inputs[1], *inputs[2:], **options)
    dy = tensor(*y.shape, seed=3).to(y.dtype)
    layout = torch.channels_last if ft.library.is_channels_last(y) else torch.contiguous_format
    return [y, *torch.autograd.grad(y, inputs, dy.contiguous(memory_format=layout))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("x", "weight", "options"), CASES)
def test_values_of_memory_that_is_never_read(isa, monkeypatch, x, weight, options, layout, dtype):
    layout = layout if len(x) == 4 else torch.contiguous_format
    channels = weight[1] * options.get("groups", 1)
    tensors = [tensor(*x), tensor(*weight, seed=1), tensor(channels, seed=2)]
    tensors = [t.to(dtype) for t in tensors]
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    expected = run(F.conv_transpose2d, *(t.double() for t in tensors), options)
    empty = torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *args, **given: empty(*args, **given).fill_(torch.nan))
        actual = run(ft.conv_transpose2d, *tensors, options)
    for ours, truth in zip(actual, expected, strict=True):
        scale = 1 + truth.abs().max().item() if truth.numel() else 1.0
        tolerance = 16 * torch.finfo(dtype).eps * scale
        torch.testing.assert_close(ours.double(), truth, rtol=0, atol=tolerance)
    for ours in actual[:2]:
        assert ours.is_contiguous(memory_format=layout) or ours.numel() == 0


def test_same_bits_for_any_threads():
    x, weight, bias = tensor(2, 16, 9, 9), tensor(16, 12, 3, 3), tensor(12)
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            results.append(run(ft.conv_transpose2d, x, weight, bias, {"stride": 2}))
    torch.testing.assert_close(results[1:], results[:1] * 2, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((2, 4, 1, 1), (4, 3, 4, 4), {}),  # a matrix product
        ((2, 4, 5, 5), (4, 3, 3, 3), {"dilation": 2, "output_padding": 1}),
    ],
)
def test_what_is_left_to_torch(x, weight, options):
    _core.softmax_forward(torch.zeros(1), 0)
    marker = _core.last_trace()
    x, weight, bias = tensor(*x), tensor(*weight), tensor(3)
    actual = run(ft.conv_transpose2d, x, weight, bias, options)
    assert _core.last_trace() == marker
    torch.testing.assert_close(actual, run(F.conv_transpose2d, x, weight, bias, options))


@pytest.mark.parametrize(
    ("x", "weight", "bias", "options"),
    [
        ((2, 4, 5, 5), (5, 3, 3, 3), None, {}),
        ((2, 4, 5, 5), (4, 3, 3, 3), (1,), {}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"groups": 3}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"groups": 0}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"stride": 0}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"stride": (1, 2, 2)}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"padding": -1}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"padding": 9}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"dilation": 0}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"output_padding": 1}),
        ((2, 4, 5, 5), (4, 3, 3, 3), None, {"stride": 2, "output_padding": -1}),
        ((2, 4, 5), (4, 3, 3), None, {}),
        ((2, 2, 4, 5, 5), (4, 3, 3, 3), None, {}),
    ],
)
def test_errors(x, weight, bias, options):
    bias = None if bias is None else tensor(*bias)
    for function in (F.conv_transpose2d, ft.conv_transpose2d):
        with pytest.raises((ValueError, RuntimeError)):
            function(tensor(*x), tensor(*weight), bias, **options)
    with pytest.raises(RuntimeError):
        ft.conv_transpose2d(tensor(2, 4, 5, 5), tensor(4, 3, 3, 3).float())


def test_the_size_of_the_output():
    layer = torch.nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1)
    x = tensor(1, 3, 5, 6).float()
    expected = layer(x, output_size=(10, 11))
    ft.patch(layer)
    y = layer(x, output_size=(10, 11))
    assert y.shape == (1, 2, 10, 11)
    torch.testing.assert_close(y, expected)
    with pytest.raises(ValueError, match="requested an output size"):
        layer(x, output_size=(12, 11))
