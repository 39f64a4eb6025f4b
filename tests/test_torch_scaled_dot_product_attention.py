"""Attention of tensors with dropout: forward and backward from the same numbers of torch's."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import fastdl.torch as ft  # noqa: E402
from fastdl import _core  # noqa: E402

# PyTorch's own, when it first derives a decomposition.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

P = 0.3


def randn(*shape: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def attend(*args: Any, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    return ft.scaled_dot_product_attention(*args, dropout_p=P, **options)


def test_dropout_keeps_the_mean_and_drops_what_it_should():
    rows, S = 64, 128
    query, key = torch.zeros(rows, 4), torch.zeros(S, 4)
    weights = attend(query, key, torch.eye(S)) * S  # what 1 / S became: 0 or 1 / (1 - p)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], torch.full((int(kept.sum()),), 1 / (1 - P)))
    n = rows * S
    assert abs(kept.double().mean() - (1 - P)) < 4 * (P * (1 - P) / n) ** 0.5
    y = attend(query, key, torch.ones(S, 1), seed=1)
    variance = P / (1 - P) / S
    assert abs(y.mean() - 1) < 4 * (variance / rows) ** 0.5
    assert 0.5 * variance < y.var() < 2 * variance


OPTIONS = [
    ({}, ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))),
    ({"is_causal": True, "scale": 0.3}, ((2, 3, 67, 4), (2, 3, 131, 4), (2, 3, 131, 6))),
    ({"enable_gqa": True}, ((2, 4, 20, 16), (2, 2, 20, 16), (2, 2, 20, 16))),
    ({}, ((12, 70, 16), (12, 130, 16), (12, 130, 8), (70, 130))),
    ({}, ((2, 1, 5, 4), (3, 7, 4), (3, 7, 6))),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("options", "shapes"), OPTIONS)
def test_gradients_are_those_of_the_mask_that_was_drawn(options, shapes, dtype):
    inputs = [randn(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    y = attend(*inputs, **options)
    assert _core.last_trace()["kernel"].startswith("flash")
    dy = randn(*y.shape, seed=9, dtype=dtype).detach()
    gradients = torch.autograd.grad(y, inputs, dy)

    # Without scores, and with value = identity, the result is the mask / S.
    query, key, value, *mask = (x.detach().double().requires_grad_() for x in inputs)
    S = key.size(-2)
    identity = torch.eye(S, dtype=torch.float64).expand(*value.shape[:-2], S, S)
    gqa = {"enable_gqa": options.get("enable_gqa", False)}
    factors = attend(0 * query, 0 * key, identity, **gqa).detach() * S
    if gqa["enable_gqa"]:
        key_, value_ = (x.repeat_interleave(2, -3) for x in (key, value))
    else:
        key_, value_ = key, value
    scores = query @ key_.mT * options.get("scale", query.size(-1) ** -0.5)
    if options.get("is_causal"):
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    weights = (scores + sum(mask)).softmax(-1)
    expected = (weights * factors) @ value_
    truth = torch.autograd.grad(expected, [query, key, value, *mask], dy.double())
    tolerance = 32 * torch.finfo(dtype).eps
    for actual, true in zip((y, *gradients), (expected, *truth), strict=True):
        scale = 1 + true.abs().max().item()
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.double(), true, rtol=0, atol=tolerance * scale)


def test_dropout_follows_manual_seed_and_checkpoints():
    x = randn(2, 3, 20, 8)
    assert torch.equal(attend(x, x, x), attend(x, x, x))
    assert not torch.equal(attend(x, x, x), ft.scaled_dot_product_attention(x, x, x, dropout_p=P))
    (expected,) = torch.autograd.grad(attend(x, x, x).pow(2).sum(), x)
    torch.manual_seed(0)
    call = lambda x: ft.scaled_dot_product_attention(x, x, x, dropout_p=P)  # noqa: E731
    y = torch.utils.checkpoint.checkpoint(call, x, use_reentrant=False)
    torch.rand(5)  # others draw, too
    assert torch.equal(torch.autograd.grad(y.pow(2).sum(), x)[0], expected)


def test_dropout_of_everything_and_bad_probabilities():
    x = randn(5, 4)
    assert not ft.scaled_dot_product_attention(x, x, x, dropout_p=1.0).any()
    for p in (-0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            ft.scaled_dot_product_attention(x, x, x, dropout_p=p)


@pytest.mark.parametrize("is_causal", [False, True])
def test_dropout_is_differentiable_twice(is_causal):
    inputs = [randn(2, 5, 4), randn(2, 6, 4, seed=1), randn(2, 6, 3, seed=2)]
    call = lambda *inputs: attend(*inputs, is_causal=is_causal)  # noqa: E731
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def test_dropout_is_an_operator():
    x = randn(2, 3, 5, 4, dtype=torch.float32)
    options = (P, True, None, False, torch.tensor(2**62 + 1))
    torch.library.opcheck(
        torch.ops.fastdl.scaled_dot_product_attention.default, (x, x, x, None, *options)
    )
    y, logsumexp = torch.ops.fastdl.scaled_dot_product_attention(x, x, x, None, *options)
    arguments = [t.detach() for t in (y, x, x, x, y, logsumexp)]
    torch.library.opcheck(
        torch.ops.fastdl.scaled_dot_product_attention_backward.default,
        (*arguments, None, *options, [True, True, True, False]),
    )


@pytest.mark.parametrize("gqa", [False, True])
def test_value_may_have_more_dimensions_than_the_scores(gqa):
    query, key, value = (
        randn(4, 5, 8),
        randn(2 if gqa else 1, 6, 8),
        randn(3, 2 if gqa else 4, 6, 8),
    )
    torch.library.opcheck(
        torch.ops.fastdl.scaled_dot_product_attention.default,
        [x.detach() for x in (query, key, value)] + [None, 0.0, False, None, gqa, None],
    )


def test_dropout_compiles():
    torch._dynamo.reset()
    x = randn(2, 3, 20, 8)
    call = lambda x: ft.scaled_dot_product_attention(x, x, x, dropout_p=P)  # noqa: E731
    torch.manual_seed(0)
    y = torch.compile(call, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, attend(x, x, x))
    (dx,) = torch.autograd.grad(y.pow(2).sum(), x)
    torch.testing.assert_close(dx, torch.autograd.grad(attend(x, x, x).pow(2).sum(), x)[0])


def test_dropout_under_torchs_transforms():
    x = randn(2, 3, 5, 4)
    loss = lambda x: attend(x, x, x).sum()  # noqa: E731
    assert torch.func.grad(loss)(x).isfinite().all()
    stacked = torch.vmap(
        lambda x: ft.scaled_dot_product_attention(x, x, x, dropout_p=P), randomness="different"
    )(x)
    assert stacked.shape == x.shape
