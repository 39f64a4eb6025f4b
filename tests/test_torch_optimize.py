"""optimize(): a model for inference, whose layers and what follows them are one."""

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
F = nn.functional

import fastdl.torch as ft  # noqa: E402
from fastdl import _core  # noqa: E402
from fastdl.torch.fused import FusedConv2d, FusedLinear  # noqa: E402


class Block(nn.Module):
    """A residual block, as ResNet has it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.in_place = nn.ReLU(inplace=True), in_place

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.in_place:
            y += x
        else:
            y = x + y
        return self.relu(y)


class Others(nn.Module):
    """What must not be fused: a result used twice, a conv called twice, a broadcast, a tail."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.shared = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.pooled, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, 2, padding_mode="reflect")
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")

    def forward(self, x: Any) -> Any:
        y = self.twice(x)
        y = torch.relu(y) + y
        y = self.shared(torch.nn.functional.gelu(self.shared(y)))
        y = self.pooled(y) + x.mean((2, 3), keepdim=True)
        y = self.circular(y.relu())
        x = x * 1
        x += self.twice(y)  # changes x, which is used again
        return self.last(x + y)


def network() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.GELU("tanh"),
        Block(True),
        Block(False),
        Others(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    model.train()
    with torch.no_grad():
        for seed in range(3):  # running statistics that are not the first ones
            model(images(seed))
    return model.eval()


def images(seed: int = 0) -> Any:
    return torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_optimize_keeps_the_results():
    model = network()
    state = copy.deepcopy(model.state_dict())
    fast = ft.optimize(model)
    x = images(5)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.state_dict(), state)
    classes = [type(module) for module in fast.modules()]
    assert nn.BatchNorm2d not in classes
    assert ft.nn.BatchNorm2d not in classes
    assert classes.count(FusedConv2d) == 6
    activations = [m.activation for m in fast.modules() if isinstance(m, FusedConv2d)]
    assert sorted(map(str, activations)) == ["gelu_tanh", "relu", "relu", "relu", "relu", "relu"]
    assert "kernel_size=(3, 3), relu" in str(fast)


@torch.no_grad()
def test_optimized_models_are_saved_copied_and_compiled():
    torch._dynamo.reset()
    fast = ft.optimize(network())
    x = images(5)
    expected = fast(x)
    assert torch.equal(copy.deepcopy(fast)(x), expected)
    other = ft.optimize(network())
    other.load_state_dict({name: value * 0 for name, value in fast.state_dict().items()})
    assert not torch.equal(other(x), expected)
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), expected)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    layout = torch.channels_last
    torch.testing.assert_close(fast(x.contiguous(memory_format=layout)), expected)


def test_optimize_wants_evaluation_mode():
    with pytest.raises(ValueError, match=r"\[optimize\] the model is in training mode"):
        ft.optimize(network().train())


class Attention(nn.Module):
    """Self-attention and an MLP, norm first, as GPT and ViT have them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Any, mask: Any = None) -> Any:
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.projection(y.transpose(1, 2).reshape(n, length, width)))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def fused(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, (FusedConv2d, FusedLinear))]


def transformer() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(Attention(16, 2), Attention(16, 2)).eval()


@torch.no_grad()
def test_linear_layers_absorb_what_follows():
    model = transformer()
    fast = ft.optimize(model)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(fast(x), model(x))
    layers = fused(fast)
    assert [m.activation for m in layers] == [None, None, "gelu_tanh", None] * 2
    assert all(m.packed is not None for m in layers)
    targets = [node.target for node in fast.graph.nodes]
    assert targets.count(ft.scaled_dot_product_attention) == 2
    assert operator.add not in targets
    assert "up): FusedLinear(16, 32, gelu_tanh)" in str(fast)
    fast(x[:, :1])
    assert _core.last_trace()["kernel"] == "gemm, weight packed"


@torch.no_grad()
def test_large_weights_of_linear_layers_stay_as_they_lie(monkeypatch):
    monkeypatch.setattr("fastdl.torch.fused._LARGEST_PACKED", 16 * 32 * 4)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 17)).eval()
    fast = ft.optimize(model)
    assert [m.packed is not None for m in fused(fast)] == [True, False]
    x = torch.randn(9, 16)
    torch.testing.assert_close(fast(x), model(x))


@torch.no_grad()
def test_large_weights_of_convolutions_stay_as_they_lie(monkeypatch):
    monkeypatch.setattr("fastdl.torch.fused._LARGEST_PACKED", 16 * 16 * 9 * 4)
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 17, 3)).eval()
    fast = ft.optimize(model)
    assert [m.packed is not None for m in fused(fast)] == [True, False]
    x = torch.randn(2, 16, 9, 9)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_shares_no_memory_with_the_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.BatchNorm1d(4)).eval()
    fast = ft.optimize(model)
    x = torch.randn(3, 4)
    expected = fast(x)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.zero_()
    torch.testing.assert_close(fast(x), expected, rtol=0, atol=0)


@torch.no_grad()
def test_a_function_call_by_keywords_and_by_method():
    class Calls(nn.Module):
        def forward(self, x: Any) -> Any:
            y = F.softmax(input=x, dim=1) + F.softmax(x, dim=1) + x.softmax(-1)
            return torch.matmul(F.max_pool2d(y, 2).tanh(), F.layer_norm(x, (6,)).mT[..., :3, :3])

    x = torch.randn(2, 3, 6, 6)
    fast = ft.optimize(Calls().eval())
    torch.testing.assert_close(fast(x), Calls()(x))
    targets = [node.target for node in fast.graph.nodes]
    assert targets.count(ft.softmax) == 3
    assert {ft.max_pool2d, ft.tanh, ft.layer_norm, torch.matmul} < set(targets)


def in_place_method(net: Any, x: Any) -> Any:
    y = net.layer(x)
    x.relu_()
    return y + x


def in_place_operator(net: Any, x: Any) -> Any:
    y = net.layer(x)
    x *= 2
    return torch.relu(y + x)


def in_place_module(net: Any, x: Any) -> Any:
    y = net.layer(x)
    return y + net.relu(x)


def in_place_between(net: Any, x: Any) -> Any:
    y = net.layer(x) + x
    x.mul_(2)
    return torch.relu(y)


def larger(net: Any, x: Any) -> Any:
    return torch.relu(net.layer(x[:1]) + x)


def smaller(net: Any, x: Any) -> Any:
    return torch.relu(net.layer(x) + x[:1, :, :1])


def other_dtype(net: Any, x: Any) -> Any:
    return F.gelu(net.layer(x) + x.double())


def number(net: Any, x: Any) -> Any:
    return net.layer(x) + x.shape[0]


def twice(net: Any, x: Any) -> Any:
    y = net.layer(x)
    return y + y


USES = [
    in_place_method, in_place_operator, in_place_module, in_place_between, larger,
    smaller, other_dtype, number, twice,
]  # fmt: skip
LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 3, 3, padding=1), (2, 3, 6, 5)),
    "same": (lambda: nn.Conv2d(3, 3, (3, 1), padding="same"), (2, 3, 6, 5)),
    "linear": (lambda: nn.Linear(5, 5), (2, 3, 5)),
}


class Around(nn.Module):
    """A layer, and what is done with its result."""

    def __init__(self, layer: Any, use: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.layer, self.use, self.relu = layer, use, nn.ReLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.use(self, x)


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_residuals_of_every_kind(layer, use):
    make, shape = LAYERS[layer]
    torch.manual_seed(0)
    model = Around(make(), use).eval()
    x = torch.randn(shape)
    fast = ft.optimize(model)
    assert len(fused(fast)) == 1
    torch.testing.assert_close(fast(x.clone()), model(x.clone()))


@torch.no_grad()
def test_fused_linear_layers_are_saved_copied_converted_and_compiled():
    torch._dynamo.reset()
    fast, other = ft.optimize(transformer()), ft.optimize(transformer())
    x = torch.randn(2, 5, 16)
    expected = fast(x)
    assert torch.equal(copy.deepcopy(fast)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fast))(x), expected)
    other.load_state_dict({name: value * 0 for name, value in fast.state_dict().items()})
    assert torch.equal(other(x), x)
    other.load_state_dict(fast.state_dict())
    assert torch.equal(other(x), expected)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    with torch.autocast("cpu"):
        y = fast(x)
    torch.testing.assert_close(y.float(), expected, atol=0.05, rtol=0.05)
    torch.testing.assert_close(other.double()(x.double()).float(), expected)
    y = other.bfloat16()(x.bfloat16())
    torch.testing.assert_close(y.float(), expected, atol=0.1, rtol=0.1)


@torch.no_grad()
def test_optional_arguments_are_taken_to_be_absent():
    model = Attention(16, 2).eval()
    fast = ft.optimize(model)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(fast(x, mask=None), model(x))
    with pytest.raises(AssertionError, match="mask has been specialized to have value None"):
        fast(x, mask=torch.zeros(5, 5))


class Untraceable(nn.Module):
    """A forward that looks at what it is given, around submodules that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(16, 2), nn.Sequential(nn.Linear(16, 16), nn.ReLU())])
        self.first = self.again = nn.Linear(16, 16)
        self.absent = None
        self.norm = nn.BatchNorm1d(16)
        self.padded = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        self.convolution = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, x: Any, *rest: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        if x.sum() > 1e9:
            return x
        y = self.norm(self.again(self.first(x)).flatten(0, 1))
        return self.convolution(self.padded(y[None, None]))


@torch.no_grad()
def test_what_cannot_be_traced_is_optimized_in_parts():
    torch.manual_seed(0)
    model = Untraceable().eval()
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 5, 16)
    expected = "Untraceable.forward cannot be traced .*arguments.* run it under .*override"
    with pytest.warns(UserWarning, match=f"(?i){expected}"):
        fast = ft.optimize(model)
    torch.testing.assert_close(fast(x), model(x))
    with ft.override():
        torch.testing.assert_close(fast(x), model(x))
    torch.testing.assert_close(model.state_dict(), state)
    assert fast.first is fast.again
    assert sorted(str(m.activation) for m in fused(fast)) == ["None"] * 5 + ["relu"] * 2
    assert type(fast.padded) is ft.nn.Conv2d


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*cannot be traced:UserWarning")
def test_batch_norms_in_parts_with_the_same_convolution():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv, norms = nn.Conv2d(4, 4, 3, padding=1), [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
            for norm in norms:
                norm.running_var.uniform_(0.5, 2)
                norm.bias.normal_()
            self.first, self.second = (nn.Sequential(conv, norm) for norm in norms)

        def forward(self, x: Any, *rest: Any) -> Any:
            return self.second(self.first(x))

    torch.manual_seed(0)
    model, x = Two().eval(), torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(ft.optimize(model)(x), model(x))
