"""optimize(), verify() and the commands: what makes a model for inference, and what checks it."""

import copy
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import fastdl.doctor  # noqa: E402
import fastdl.torch as ft  # noqa: E402
from fastdl.torch.optimize import FusedConv2d  # noqa: E402


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


@pytest.mark.parametrize("training", [True, False])
def test_verify(training):
    model = network().train(training)
    ft.patch(model)
    state = copy.deepcopy(model.state_dict())
    report = ft.verify(model, images())
    assert report.ok, report
    names = [layer.name for layer in report.layers]
    assert {"0", "1", "2", "3.conv1", "5.shared", "8"} <= set(names)
    assert "Winograd" in str(report) or "conv" in str(report).lower()
    torch.testing.assert_close(model.state_dict(), state)


def test_verify_finds_a_wrong_layer(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    ft.patch(model)
    right = ft.functional.tanh
    monkeypatch.setattr(ft.functional, "tanh", lambda x: right(x) * 1.001)
    report = ft.verify(model, torch.ones(2, 4))
    assert [layer.ok for layer in report.layers] == [True, False]
    assert not report.ok
    assert "BAD" in str(report)


def test_the_commands(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\ndef make(): return torch.nn.Linear(4, 3), torch.ones(2, 4)\n"
    )

    def run(*arguments: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "fastdl", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
        )

    verified = run("verify", "net:make")
    assert verified.returncode == 0, verified.stderr
    assert "Linear" in verified.stdout
    told = run("doctor")
    assert told.returncode == 0, told.stderr
    assert "PyTorch" in told.stdout
    assert "gomp" in told.stdout
    assert run("nonsense").returncode != 0


def test_doctor_advises(monkeypatch):
    monkeypatch.setattr(fastdl.doctor, "get_num_threads", lambda: 10_000)
    monkeypatch.setattr(fastdl.doctor, "get_isa", lambda: "scalar")
    monkeypatch.setattr(
        fastdl.doctor,
        "_loaded_libraries",
        lambda: {"gomp": {"/a/libgomp.so.1", "/b/libgomp.so.1"}, "iomp5": {"/c/libiomp5.so"}},
    )
    report = fastdl.doctor.doctor()
    for line in (
        "libgomp is loaded 2 times",
        "gomp and iomp5 both",
        "scalar is forced",
        "10000 threads on",
        "fastdl 10000",
    ):
        assert line in report
