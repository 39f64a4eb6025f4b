import numpy as np
import pytest

from fastdl.reference import (
    dropout_forward,
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)
from tests.gradcheck import numerical_gradient

# query, key, value
SHAPES = [
    pytest.param((2, 3, 3, 4), (2, 3, 5, 4), (2, 3, 5, 4), id="B H L E"),
    pytest.param((1, 2, 5, 3), (1, 2, 3, 3), (1, 2, 3, 2), id="Ev differs, L above S"),
    pytest.param((3, 4), (5, 4), (5, 2), id="two dims"),
    pytest.param((2, 3, 4), (2, 5, 4), (2, 5, 4), id="three dims"),
    pytest.param((2, 1, 2, 1, 3), (2, 1, 2, 2, 3), (2, 1, 2, 2, 3), id="five dims"),
    pytest.param((1, 2, 2, 3), (2, 1, 4, 3), (4, 3), id="broadcast batch and heads"),
    pytest.param((1, 1, 2, 3), (1, 1, 4, 3), (3, 2, 4, 3), id="broadcast to the batch of value"),
    pytest.param((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1), id="ones"),
]


def operands(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def check_against_differences(query, key, value, attn_mask=None, **options):
    inputs = [query, key, value, attn_mask]
    y, logsumexp = scaled_dot_product_attention_forward(*inputs, **options)
    dy = np.random.default_rng(1).normal(size=y.shape)
    gradients = scaled_dot_product_attention_backward(
        dy, query, key, value, y, logsumexp, attn_mask, **options
    )
    for i, gradient in enumerate(gradients):
        if i == 3 and (attn_mask is None or attn_mask.dtype == bool):
            assert gradient is None
            continue

        def forward(x, i=i):
            changed = [*inputs[:i], x, *inputs[i + 1 :]]
            return scaled_dot_product_attention_forward(*changed, **options)[0]

        expected = numerical_gradient(forward, inputs[i], dy)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8, strict=True)


def check_against_torch(torch, query, key, value, attn_mask=None, **options):
    arrays = [query, key, value, attn_mask]
    tensors = [
        None if a is None else torch.tensor(a, requires_grad=a.dtype != bool) for a in arrays
    ]
    y_torch = torch.nn.functional.scaled_dot_product_attention(*tensors, **options)
    dy = np.random.default_rng(1).normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y, logsumexp = scaled_dot_product_attention_forward(*arrays, **options)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=1e-12, atol=1e-14, strict=True)
    gradients = scaled_dot_product_attention_backward(
        dy, query, key, value, y, logsumexp, attn_mask, **options
    )
    for gradient, tensor in zip(gradients, tensors, strict=True):
        if tensor is None or not tensor.requires_grad:
            assert gradient is None
        else:
            np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-11, atol=1e-13, strict=True)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(params=["differences", "torch"])
def check(request):
    """Compares forward and backward with central differences or with torch."""
    if request.param == "differences":
        return check_against_differences
    torch = pytest.importorskip("torch")
    return lambda *inputs, **options: check_against_torch(torch, *inputs, **options)


@pytest.mark.parametrize("is_causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(("query", "key", "value"), SHAPES)
def test_shapes(check, query, key, value, is_causal):
    check(*operands(query, key, value), is_causal=is_causal)


@pytest.mark.parametrize("scale", [0.0, 0.3, -1.0])
def test_scale(check, scale):
    check(*operands((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)), scale=scale)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_grouped_query_heads(check, key_heads):
    query, key, value = operands((2, 4, 3, 2), (2, key_heads, 5, 2), (2, key_heads, 5, 3))
    check(query, key, value, enable_gqa=True)


def test_grouped_heads_without_batch_and_with_two_group_sizes(check):
    check(*operands((4, 3, 2), (2, 5, 2), (1, 5, 2)), enable_gqa=True)


@pytest.mark.parametrize("kind", ["bool", "additive"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 3, 5), (2, 1, 3, 5), (1, 3, 1, 5), (3, 5), (3, 1), (1, 5), (1, 1)], ids=str
)
def test_mask(check, shape, kind):
    query, key, value, mask = operands((2, 3, 3, 4), (2, 3, 5, 4), (2, 3, 5, 4), shape)
    check(query, key, value, mask > -0.5 if kind == "bool" else mask)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_masked_queries_give_zero(torch, kind):
    query, key, value = operands((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    mask = np.ones((3, 5), bool)
    mask[1] = False
    mask[2, :3] = False
    if kind == "additive":
        mask = np.where(mask, 0, -np.inf)
    check_against_torch(torch, query, key, value, mask)

    y, logsumexp = scaled_dot_product_attention_forward(query, key, value, mask)
    assert np.all(y[:, :, 1] == 0) and np.all(logsumexp[:, :, 1] == 0)
    gradients = scaled_dot_product_attention_backward(
        np.ones_like(y), query, key, value, y, logsumexp, mask
    )
    assert np.all(gradients[0][:, :, 1] == 0)


def test_logsumexp_is_that_of_torch(torch):
    query, key, value, mask = operands((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4), (3, 5))
    mask[1] = -np.inf
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, expected = flash(*map(torch.tensor, (query, key, value)), attn_mask=torch.tensor(mask))
    _, logsumexp = scaled_dot_product_attention_forward(query, key, value, mask)
    assert logsumexp.shape == (1, 2, 3)
    np.testing.assert_allclose(logsumexp, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [
        pytest.param((0, 2, 3, 4), (0, 2, 5, 4), (0, 2, 5, 4), id="no batch"),
        pytest.param((1, 2, 0, 4), (1, 2, 5, 4), (1, 2, 5, 4), id="no queries"),
        pytest.param((1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 4), id="no keys"),
        pytest.param((1, 2, 3, 0), (1, 2, 5, 0), (1, 2, 5, 4), id="E is 0"),
        pytest.param((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 0), id="Ev is 0"),
    ],
)
def test_empty(torch, query, key, value):
    check_against_torch(torch, *operands(query, key, value))


@pytest.mark.parametrize("where", ["query", "key", "value", "mask NaN", "mask +inf"])
def test_special_values_are_those_of_torch(torch, where):
    inputs = operands((1, 1, 3, 4), (1, 1, 5, 4), (1, 1, 5, 4), (3, 5))
    names = ["query", "key", "value", "mask NaN", "mask +inf"]
    i = min(names.index(where), 3)
    inputs[i].flat[0] = np.inf if where == "mask +inf" else np.nan
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, inputs))
    y, _ = scaled_dot_product_attention_forward(*inputs)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_a_key_of_the_future_is_not_seen_even_if_nan():
    query, key, value = operands((3, 4), (3, 4), (3, 4))
    expected, _ = scaled_dot_product_attention_forward(query, key, value, is_causal=True)
    key[2] = np.nan
    y, _ = scaled_dot_product_attention_forward(query, key, value, is_causal=True)
    np.testing.assert_array_equal(y[:2], expected[:2])
    assert np.all(np.isnan(y[2]))


@pytest.mark.parametrize("dropout_p", [0.3, 1.0])
def test_dropout_backward(dropout_p):
    query, key, value, mask = operands((2, 4, 3, 2), (2, 2, 5, 2), (2, 2, 5, 2), (3, 5))
    options = {"dropout_p": dropout_p, "rng_state": (3, 5), "enable_gqa": True}
    check_against_differences(query, key, value, mask, **options)


def test_dropout_acts_on_the_probabilities_by_flat_index():
    query, key, value = operands((2, 3, 3, 4), (2, 3, 5, 4), (2, 3, 5, 4))
    rng_state = (11, 2**32 - 3)
    options = {"dropout_p": 0.4, "rng_state": rng_state}
    identity = np.broadcast_to(np.eye(5), (2, 3, 5, 5))
    p, _ = scaled_dot_product_attention_forward(query, key, identity)
    y, logsumexp = scaled_dot_product_attention_forward(query, key, value, **options)
    np.testing.assert_allclose(y, dropout_forward(p, 0.4, rng_state) @ value, rtol=1e-12)
    _, without = scaled_dot_product_attention_forward(query, key, value)
    np.testing.assert_array_equal(logsumexp, without)


def test_mask_and_causal_exclude_each_other():
    query, key, value = operands((3, 4), (5, 4), (5, 4))
    with pytest.raises(ValueError, match="attn_mask must be None when is_causal"):
        scaled_dot_product_attention_forward(
            query, key, value, np.ones((3, 5), bool), is_causal=True
        )
