"""verify() and the commands: what checks a model and a process."""

import copy
import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import fastdl.doctor  # noqa: E402
import fastdl.torch as ft  # noqa: E402
from tests.test_torch_optimize import images, network  # noqa: E402


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
    assert "bfloat16" in told.stdout
    assert run("nonsense").returncode != 0
    for wrong in (("verify", "no_such_module"), ("verify", "net:no_such"), ("replay", "net.py")):
        refused = run(*wrong)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr


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
