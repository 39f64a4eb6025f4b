"""fastdl.torch.nn.MultiheadAttention and the transformers of torch.nn that are made of it."""

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import fastdl.torch as ft  # noqa: E402

# PyTorch's own, when it first derives a decomposition, and where it makes nested tensors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask and attn_mask:UserWarning"),
]

N, L, S, E, H = 3, 5, 7, 8, 4


def randn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masked(*shape: int) -> Any:
    """A third of a mask, but never the first key."""
    mask = randn(*shape, seed=5) > 0.4
    mask[..., 0] = False
    return mask


def causal(L: int, S: int) -> Any:
    return torch.ones(L, S, dtype=torch.bool).triu(1)


def modules(options: dict[str, Any], dtype: Any = torch.float64) -> tuple[Any, Any]:
    """PyTorch's and ours, with the same parameters, none of them zero."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(E, H, **options, dtype=dtype)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours = copy.deepcopy(theirs)
    ft.patch(ours)
    assert type(ours) is ft.nn.MultiheadAttention
    return theirs, ours


def assert_same(theirs: Any, ours: Any, inputs: list[Any], kwargs: dict[str, Any]) -> None:
    """Results, and the gradients of inputs, parameters and floating masks."""
    leaves = [x.requires_grad_() for x in {id(x): x for x in inputs}.values()]
    leaves += [
        x.requires_grad_() for x in kwargs.values() if torch.is_tensor(x) and x.is_floating_point()
    ]
    results = []
    for module in (theirs, ours):
        y, weights = module(*inputs, **kwargs)
        loss = (y * randn(*y.shape, seed=9)).sum()
        if weights is not None:
            loss = loss + (weights * randn(*weights.shape, seed=8)).sum()
        wanted = [*leaves, *module.parameters()]
        results.append((y, weights, torch.autograd.grad(loss, wanted, allow_unused=True)))
    torch.testing.assert_close(results[1], results[0])


CONSTRUCTED = [
    {},
    {"bias": False},
    {"kdim": 6, "vdim": 10},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "bias": False, "kdim": 6},
]
CALLED = {
    "plain": lambda: {},
    "without weights": lambda: {"need_weights": False},
    "weights of every head": lambda: {"average_attn_weights": False},
    "padding": lambda: {"key_padding_mask": masked(N, S)},
    "float padding": lambda: {"key_padding_mask": randn(N, S), "need_weights": False},
    "mask": lambda: {"attn_mask": masked(L, S), "need_weights": False},
    "mask of every head": lambda: {"attn_mask": masked(N * H, L, S)},
    "float mask": lambda: {"attn_mask": randn(L, S), "need_weights": False},
    "both": lambda: {
        "attn_mask": masked(N * H, L, S),
        "key_padding_mask": masked(N, S),
        "need_weights": False,
    },
    "both, one float": lambda: {"attn_mask": randn(L, S), "key_padding_mask": masked(N, S)},
    "causal": lambda: {"attn_mask": causal(L, S), "is_causal": True, "need_weights": False},
    "causal, padding": lambda: {
        "attn_mask": causal(L, S),
        "is_causal": True,
        "key_padding_mask": masked(N, S),
        "need_weights": False,
    },
    "causal, weights": lambda: {"attn_mask": causal(L, S), "is_causal": True},
}


@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("kwargs", CALLED.values(), ids=CALLED)
@pytest.mark.parametrize("options", CONSTRUCTED, ids=str)
def test_options(options, kwargs, batch_first):
    theirs, ours = modules({**options, "batch_first": batch_first})
    inputs = [randn(N, L, E), randn(N, S, theirs.kdim, seed=1), randn(N, S, theirs.vdim, seed=2)]
    if not batch_first:
        inputs = [x.transpose(0, 1).contiguous() for x in inputs]
    assert_same(theirs, ours, inputs, kwargs())


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_self_attention(training, batch_first, need_weights):
    theirs, ours = (m.train(training) for m in modules({"batch_first": batch_first}))
    x = randn(N, S, E)
    assert_same(theirs, ours, [x, x, x], {"need_weights": need_weights})
    with torch.no_grad():  # PyTorch's fast path
        torch.testing.assert_close(ours(x, x, x)[0], theirs(x, x, x)[0])


@pytest.mark.parametrize("need_weights", [False, True])
def test_unbatched(need_weights):
    theirs, ours = modules({"add_zero_attn": True})
    kwargs = {"key_padding_mask": masked(S), "attn_mask": masked(H, L, S)}
    inputs = [randn(L, E), randn(S, E, seed=1), randn(S, E, seed=2)]
    assert_same(theirs, ours, inputs, {**kwargs, "need_weights": need_weights})


def test_a_query_that_sees_no_key():
    theirs, ours = modules({})
    mask = masked(L, S)
    mask[2] = True
    inputs = [randn(L, N, E), randn(S, N, E, seed=1), randn(S, N, E, seed=2)]
    for need_weights in (False, True):  # zeros, NaN
        kwargs = {"attn_mask": mask, "need_weights": need_weights}
        torch.testing.assert_close(
            ours(*inputs, **kwargs), theirs(*inputs, **kwargs), equal_nan=True
        )


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout(need_weights):
    _, ours = modules({"dropout": 0.5})
    x = randn(30, N, E)
    plain = ours.eval()(x, x, x)[0]
    ours.train()
    torch.manual_seed(0)
    y, weights = ours(x, x, x, need_weights=need_weights, average_attn_weights=False)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(x, x, x, need_weights=need_weights)[0], y)
    assert not torch.allclose(ours(x, x, x, need_weights=need_weights)[0], y)
    mean = torch.stack([ours(x, x, x, need_weights=need_weights)[0] for _ in range(400)]).mean(0)
    assert (mean - plain).abs().mean() < 0.1 * plain.abs().mean()
    if need_weights:
        assert 0.4 < (weights == 0).double().mean() < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_and_16_bits(dtype):
    theirs, ours = modules({}, dtype)
    x = randn(L, N, E).to(dtype)
    for need_weights in (False, True):
        for cast in (False, True):
            with torch.autocast("cpu", enabled=cast):
                y, expected = (m(x, x, x, need_weights=need_weights)[0] for m in (ours, theirs))
            assert y.dtype == expected.dtype
            torch.testing.assert_close(y.float(), expected.float(), rtol=0.05, atol=0.05)


def test_is_torchs_in_all_but_forward():
    theirs, ours = modules({"add_bias_kv": True})
    made = ft.nn.MultiheadAttention(E, H, add_bias_kv=True, dtype=torch.float64)
    made.load_state_dict(theirs.state_dict())
    x = randn(L, N, E)
    for module in (made, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert isinstance(module, nn.MultiheadAttention)
        assert torch.equal(module(x, x, x)[0], ours(x, x, x)[0])
    ft.unpatch(ours)
    assert type(ours) is nn.MultiheadAttention


@pytest.mark.parametrize("need_weights", [False, True])
def test_compile(need_weights):
    torch._dynamo.reset()
    _, ours = modules({"add_bias_kv": True})
    x = randn(L, N, E).requires_grad_()
    call = lambda m: m(x, x, x, masked(N, L), need_weights, masked(L, L))[0]  # noqa: E731
    y = call(torch.compile(ours, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(y, call(ours))
    gradients = (torch.autograd.grad(z.pow(2).sum(), x) for z in (y, call(ours)))
    torch.testing.assert_close(*gradients)


def test_errors():
    _, ours = modules({})
    x, longer = randn(L, N, E), randn(S, N, E)
    for inputs, kwargs, error, message in (
        ((x[None],) * 3, {}, ValueError, "must have 2 or 3 dimensions"),
        ((x, x[0], x[0]), {}, ValueError, "must have 2 or 3 dimensions"),
        ((x, x, longer), {}, ValueError, "does not go with value"),
        ((x, x[:, :1], x[:, :1]), {}, ValueError, "a batch of 3, key one of 1"),
        ((x, x, x), {"is_causal": True}, ValueError, "is_causal is a hint about attn_mask"),
        ((x, x, x), {"attn_mask": masked(L, S)}, ValueError, r"attn_mask must be \(5, 5\) or"),
        ((x, x, x), {"key_padding_mask": masked(L, N)}, ValueError, r"must be \(3, 5\), got"),
        ((x, x, x), {"attn_mask": torch.ones(L, L).int()}, TypeError, "bool or floating"),
        ((x[..., :-1],) * 3, {}, ValueError, "linear"),
    ):
        with pytest.raises(error, match=message):
            ours(*inputs, **kwargs)


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, H, 16, batch_first=True, dropout=0.0, **options)
    return nn.TransformerEncoder(layer, 2)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("masks", ["", "padding", "causal"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
def test_transformer_encoder(norm_first, training, grad, masks):
    theirs = encoder(norm_first=norm_first, activation="gelu").train(training)
    ours = copy.deepcopy(theirs)
    ft.patch(ours)
    x = randn(N, S, E).float()
    kwargs = {}
    if masks == "padding":
        kwargs["src_key_padding_mask"] = torch.arange(S) >= torch.tensor([[S], [4], [2]])
    if masks == "causal":
        kwargs.update(mask=causal(S, S), is_causal=True)
    with torch.set_grad_enabled(grad):
        y, expected = ours(x, **kwargs), theirs(x, **kwargs)
    torch.testing.assert_close(y, expected)
    if grad:
        torch.testing.assert_close(
            *(
                torch.autograd.grad(z.pow(2).sum(), m.parameters())
                for z, m in ((y, ours), (expected, theirs))
            )
        )


def test_a_whole_transformer_and_verify():
    torch.manual_seed(0)
    theirs = nn.Transformer(E, H, 2, 2, 16, dropout=0.0, batch_first=True)
    ours = copy.deepcopy(theirs)
    report = ft.patch(ours)
    assert {entry.kind for entry in report.skipped} == set()
    source, target = randn(N, S, E).float(), randn(N, L, E, seed=1).float()
    kwargs = {"tgt_mask": causal(L, L), "tgt_is_causal": True}
    torch.testing.assert_close(ours(source, target, **kwargs), theirs(source, target, **kwargs))
    checked = ft.verify(ours, source, target)
    assert checked.ok, checked
    assert "MultiheadAttention" in str(checked)
