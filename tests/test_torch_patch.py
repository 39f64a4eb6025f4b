"""fastdl.torch.nn and patch(): the modules of PyTorch, their results, and nothing else changed."""

import copy
import io
import math
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import fastdl.torch as ft  # noqa: E402

IMAGES, SERIES, ROWS = (2, 4, 9, 8), (2, 4, 13), (3, 6)
MODULES = [
    (lambda: nn.Conv2d(4, 6, 3, 2, 1), IMAGES),
    (lambda: nn.Conv2d(4, 6, (3, 5), padding=(1, 2), padding_mode="circular"), IMAGES),
    (lambda: nn.Conv2d(4, 8, 3, padding="same", groups=2, bias=False), IMAGES),
    (lambda: nn.Conv1d(4, 6, 3, 2, 1, groups=2), SERIES),
    (lambda: nn.Conv1d(4, 6, 4, padding="same", padding_mode="reflect"), SERIES),
    (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), IMAGES),
    (lambda: nn.ConvTranspose2d(4, 8, (3, 2), groups=2, bias=False, dilation=(1, 2)), IMAGES),
    (lambda: nn.Linear(6, 5), ROWS),
    (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGES),
    (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGES),
    (lambda: nn.AdaptiveAvgPool2d((None, 3)), IMAGES),
    (lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    (lambda: nn.BatchNorm1d(6), ROWS),
    (lambda: nn.BatchNorm2d(4, momentum=None), IMAGES),
    (lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False), IMAGES),
    (lambda: nn.BatchNorm3d(4), (2, 4, 3, 3, 2)),
    (lambda: nn.LayerNorm(6), ROWS),
    (lambda: nn.LayerNorm((9, 8), elementwise_affine=False), IMAGES),
    (lambda: nn.Softmax(1), ROWS),
    (lambda: nn.LogSoftmax(-1), ROWS),
    (lambda: nn.ReLU(), ROWS),
    (lambda: nn.ReLU6(), ROWS),
    (lambda: nn.LeakyReLU(0.2), ROWS),
    (lambda: nn.ELU(0.5), ROWS),
    (lambda: nn.Sigmoid(), ROWS),
    (lambda: nn.Tanh(), ROWS),
    (lambda: nn.SiLU(), ROWS),
    (lambda: nn.GELU("tanh"), ROWS),
    (lambda: nn.Dropout(0.0), ROWS),
]
IDS = [repr(make()) for make, _ in MODULES]


def tensor(shape: Any, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def train(model: Any, steps: int = 3) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for i in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tensor((4, 3, 12, 12), i)), torch.arange(4) % 5)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shape"), MODULES, ids=IDS)
def test_a_patched_module_computes_what_it_did(make, shape, training):
    torch.manual_seed(0)
    module = make().train(training)
    ours = copy.deepcopy(module)
    (entry,) = ft.patch(ours).entries
    assert entry.replaced
    assert type(ours) is not type(module)
    assert isinstance(ours, type(module))
    for step in range(2):  # the second sees what the first did to running statistics
        x, x_ours = (tensor(shape, step).requires_grad_() for _ in range(2))
        y, y_ours = module(x), ours(x_ours)
        torch.testing.assert_close(y_ours, y)
        dy = tensor(y.shape, 5)
        torch.testing.assert_close(
            torch.autograd.grad(y_ours, [x_ours, *ours.parameters()], dy),
            torch.autograd.grad(y, [x, *module.parameters()], dy),
        )
    torch.testing.assert_close(ours.state_dict(), module.state_dict())


def test_every_class_is_tested_and_constructs_like_torchs():
    elsewhere = {nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiheadAttention}
    assert {type(make()) for make, _ in MODULES} | elsewhere == set(ft.nn.MODULES)
    ours = ft.nn.Conv2d(3, 4, 3, padding=1)
    assert isinstance(ours, nn.Conv2d)
    assert ours(tensor((1, 3, 5, 5))).shape == (1, 4, 5, 5)


def test_losses():
    scores, target = tensor((5, 3)), torch.tensor([0, 2, 1, 0, -100])
    for theirs, ours in (
        (nn.CrossEntropyLoss, ft.nn.CrossEntropyLoss),
        (nn.NLLLoss, ft.nn.NLLLoss),
    ):
        for options in ({}, {"reduction": "sum"}, {"weight": torch.tensor([1.0, 2.0, 0.5])}):
            torch.testing.assert_close(
                ours(**options)(scores, target), theirs(**options)(scores, target)
            )


def test_training_is_the_same_and_unpatch_restores():
    expected = train(small_net())
    model = small_net()
    classes = [type(module) for module in model.modules()]
    report = ft.patch(model)
    assert len(report.replaced) == 8
    assert [entry.kind for entry in report.skipped] == ["Flatten"]
    assert "Flatten" in str(report)
    assert train(model) == pytest.approx(expected, rel=1e-5)
    assert ft.patch(model).replaced == tuple(
        entry for entry in ft.patch(model).entries if entry.replaced
    )
    ft.unpatch(model)
    assert [type(module) for module in model.modules()] == classes


def test_patched_is_a_context():
    model = small_net()
    with ft.patched(model) as report:
        assert type(model[0]) is ft.nn.Conv2d
        assert report.replaced
        with ft.patched(model):
            pass
        assert type(model[0]) is ft.nn.Conv2d  # the inner one leaves the outer one's work
    assert type(model[0]) is nn.Conv2d


def test_subclasses_are_left_alone_and_named():
    class MyLinear(nn.Linear):
        pass

    (entry,) = ft.patch(MyLinear(2, 3)).entries
    assert not entry.replaced
    assert entry.reason == "a subclass of Linear"
    (entry,) = ft.patch(nn.GroupNorm(2, 4)).entries
    assert entry.reason == "PyTorch's is as fast"


def test_hooks_references_and_state_dict_stay():
    model = small_net()
    weight, seen = model[0].weight, []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    saved = copy.deepcopy(model.state_dict())
    ft.patch(model)
    model(tensor((1, 3, 12, 12)))
    assert seen == [1]
    assert model[0].weight is weight
    model.load_state_dict(saved)
    assert list(saved) == list(model.state_dict())


def test_pickle_and_copy():
    model = small_net().eval()
    ft.patch(model)
    x = tensor((1, 3, 12, 12))
    expected = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("patch_first", [True, False])
def test_compile(patch_first):
    torch._dynamo.reset()
    expected = train(small_net())
    model = small_net()
    if patch_first:
        ft.patch(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    if not patch_first:
        ft.patch(model)
    assert train(compiled) == pytest.approx(expected, rel=1e-5)


def test_export():
    model = small_net().eval()
    ft.patch(model)
    x = tensor((2, 3, 12, 12))
    program = torch.export.export(model, (x,))
    assert any("fastdl" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), model(x))


def test_autocast():
    model, plain = small_net().eval(), small_net().eval()
    ft.patch(model)
    x = tensor((2, 3, 12, 12))
    with torch.autocast("cpu"):
        y, expected = model(x), plain(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, atol=0.05, rtol=0.05)


def test_channels_last():
    model, plain = small_net(), small_net()
    ft.patch(model)
    x = tensor((2, 3, 12, 12)).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), plain(x))
    y = model[:4](x)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("relu", "limit"), [(ft.relu, math.inf), (ft.relu6, 6)])
def test_inplace_relu(relu, limit):
    leaf = (5 * tensor((3, 4))).requires_grad_()
    assert (leaf > 6).any()
    x = leaf * 1
    y = relu(x, inplace=True)
    assert y is x
    torch.testing.assert_close(y, leaf.clamp(0, limit))
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, ((leaf > 0) & (leaf < limit)).float())
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        relu(leaf, inplace=True)
    z = leaf.exp()
    relu(z, inplace=True)  # exp saved its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_dropout_follows_manual_seed():
    x = torch.ones(1000)
    torch.manual_seed(1)
    first = ft.dropout(x, 0.3)
    torch.manual_seed(1)
    assert torch.equal(ft.dropout(x, 0.3), first)
    assert not torch.equal(ft.dropout(x, 0.3), first)
    assert 0.2 < (first == 0).float().mean() < 0.4
