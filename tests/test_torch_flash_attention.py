"""The provider "fastdl" of torch.nn.attention: F.scaled_dot_product_attention by our kernels."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional

import fastdl.torch  # noqa: E402, F401
from fastdl import _core  # noqa: E402


def randn(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.fixture
def provider() -> Any:
    assert "fastdl" in torch.nn.attention.list_flash_attention_impls()
    assert torch.nn.attention.current_flash_attention_impl() is None
    torch.nn.attention.activate_flash_attention_impl("fastdl")
    yield
    torch.nn.attention.restore_flash_attention_impl(_raise_warn=False)


def kernel_of(call: Any) -> Any:
    """What call() returns, and whether it ran a kernel of ours."""
    _core.softmax_forward(torch.zeros(1), 0)
    result = call()
    return result, _core.last_trace()["kernel"].startswith("flash")


def attention_gradients(*shapes: Any, dtype: Any, permuted: bool, mask: Any, options: Any) -> Any:
    inputs = [randn(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    used = [x.transpose(1, 2) for x in inputs] if permuted else inputs
    y = F.scaled_dot_product_attention(*used, mask, **options)
    dy = randn(*y.shape, seed=9, dtype=dtype).detach()
    return [y, *torch.autograd.grad(y, inputs, dy)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(
    ("mask", "options"),
    [
        (None, {}),
        (None, {"is_causal": True, "scale": 0.2}),
        (torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.7, {}),
        (None, {"enable_gqa": True}),
    ],
    ids=["plain", "causal", "mask", "gqa"],
)
def test_provider(provider, dtype, permuted, mask, options):
    heads = 2 if options.get("enable_gqa") else 4
    shapes = [(2, 20, h, 8) if permuted else (2, h, 20, 8) for h in (4, heads, heads)]
    call = lambda: attention_gradients(  # noqa: E731
        *shapes, dtype=dtype, permuted=permuted, mask=mask, options=options
    )
    actual, ran = kernel_of(call)
    assert ran
    torch.nn.attention.restore_flash_attention_impl()
    assert torch.nn.attention.current_flash_attention_impl() is None
    expected, ran = kernel_of(call)
    assert not ran
    tolerance = 32 * torch.finfo(dtype).eps
    for a, b in zip(actual, expected, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * (1 + b.abs().max().item()))


def test_provider_is_asked_for_what_it_takes(provider):
    x = torch.ones(1, 2, 3, 4)
    for call in (
        lambda: F.scaled_dot_product_attention(x[0], x[0], x[0]),
        lambda: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
        lambda: F.scaled_dot_product_attention(x, x, x, x[0, :, :, :3].clone().requires_grad_()),
    ):
        assert not kernel_of(call)[1]


def test_provider_compiles(provider):
    torch._dynamo.reset()
    x = randn(2, 4, 20, 8)

    def attend(x: Any) -> Any:
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    y, ran = kernel_of(lambda: compiled(x))
    assert ran
    gradients, ran = kernel_of(lambda: torch.autograd.grad(y.pow(2).sum(), x))
    assert ran
    torch.nn.attention.restore_flash_attention_impl()
    torch.testing.assert_close(gradients, torch.autograd.grad(attend(x).pow(2).sum(), x))


def test_activating_twice_and_in_vain(provider):
    torch.nn.attention.activate_flash_attention_impl("fastdl")
    assert torch.nn.attention.current_flash_attention_impl() == "fastdl"
    with pytest.raises(ValueError, match="Unknown flash attention impl"):
        torch.nn.attention.activate_flash_attention_impl("fastdlx")
