"""FASTDL_SHADOW: calls checked against float64 as a program runs, and files that replay them."""

import functools
import json
import os
import re
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import _core, shadow
from tests.samples import SAMPLES
from tests.testing import DTYPES, HALF_DTYPES, random

# What computes nothing, or what is checked by the calls that use it.
UNCHECKED = re.compile(
    r"(get|set)_|(buffer_pool_size|build_config|emulate_cuda|follow_tf32|last_trace|measure_peaks|supported_isas)$"
    r"|pack_\w+_weight$|__"
)


def changed(function: Any, change: Any) -> Any:
    """The function, with its results changed."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        change(*(result if isinstance(result, tuple) else (result,)))
        return result

    return run


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """A function that lets all calls be checked; ``wrong`` names one whose results to change."""
    monkeypatch.setattr(shadow.tempfile, "tempdir", str(tmp_path))
    for name in shadow._MEANT:
        monkeypatch.setattr(_core, name, getattr(_core, name))  # undone after the test

    def start(wrong: str | None = None, change: Any = None) -> None:
        if wrong is not None:
            monkeypatch.setattr(_core, wrong, changed(getattr(_core, wrong), change))
        shadow.install("1")

    return start


def run(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "FASTDL_SHADOW": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_function_that_computes_is_checked():
    rest = {name for name in dir(_core) if callable(getattr(_core, name))} - set(shadow._MEANT)
    assert [name for name in rest if not UNCHECKED.match(name)] == []


@pytest.mark.parametrize("dtype", (*DTYPES, *HALF_DTYPES), ids=lambda t: np.dtype(t).name)
@pytest.mark.parametrize("op", sorted(SAMPLES))
def test_what_is_right_passes(checked, op, dtype):
    args, kwargs = SAMPLES[op](dtype)
    expected = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)[0]
    checked()
    y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
    pullback(np.asarray(np.cos(y), dtype))
    np.testing.assert_array_equal(y, expected)


def test_the_rule_knows_the_condition_of_a_call(checked):
    checked()
    x = random((4, 3000), np.float32)
    fastdl.matmul(x, np.concatenate([x, -x], 1).T[:3000] * 1e4)  # far larger than its results
    fastdl.cross_entropy(1e4 + x, np.zeros(4, np.int64))
    fastdl.layer_norm(1e4 + x, (3000,))
    fastdl.batch_norm_forward(random((4, 3, 40000)), None, None, training=True)  # means near 0
    fastdl.max_pool2d(random((1, 1, 8, 8)), 2)
    fastdl.relu(np.array([np.inf, np.nan, -np.inf], np.float32))


def test_what_the_rule_cannot_judge_passes(checked):
    checked()
    x = random((2, 1), np.float32)  # of one class: the gradient is 0, but for rounding
    fastdl.cross_entropy_backward(np.float32(1), x, np.zeros(2, np.int64), label_smoothing=0.1)
    query, value = random((1, 1, 3, 4), np.float32), np.empty((0, 1, 3, 4), np.float32)
    fastdl.scaled_dot_product_attention(query, query, value)
    huge = 2**30  # padded, as the reference does it, an array of 2^60 elements
    fastdl.avg_pool2d(np.ones((1, 1, 2, 2), np.float32), huge, padding=huge // 2)


def spoil(x: Any, *_: Any) -> None:
    x.reshape(-1)[7] += 1e-3


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_wrong_result_raises_and_is_replayed(checked, dtype, monkeypatch):
    change = spoil if dtype == np.float32 else lambda y: y.__setitem__((1, 2), 0.5)
    checked("softmax_forward", change)
    x = random((5, 5), dtype)
    with pytest.raises(fastdl.shadow.ShadowError) as raised:
        fastdl.softmax(x, 1)
    message = str(raised.value)
    assert message.startswith("[softmax_forward] result 0: element (1, 2) is 0.")
    path = message.rpartition(" ")[2]
    with np.load(path) as file:
        call = json.loads(str(file["call"]))
        np.testing.assert_array_equal(file["array0"], x.astype(np.float32))
    assert call["arguments"] == {"x": {"array": "array0", "dtype": np.dtype(dtype).name}, "dim": 1}
    assert "element (1, 2)" in str(shadow.replay(path))
    monkeypatch.undo()  # the kernel is right again
    assert shadow.replay(path) is None


def spoil_first(x: Any, *_: Any) -> None:
    x.reshape(-1)[0] = np.nan


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("op", sorted(SAMPLES))
def test_every_op_is_checked(checked, monkeypatch, op, backward):
    for name in shadow._MEANT:
        if ("backward" in name) == backward and not name.endswith("_step"):
            monkeypatch.setattr(_core, name, changed(getattr(_core, name), spoil_first))
    checked()
    args, kwargs = SAMPLES[op](np.float32)
    with pytest.raises(shadow.ShadowError) as raised:
        y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
        pullback(np.cos(y))
    assert ("backward" in str(raised.value)) == backward


@pytest.mark.parametrize(
    ("op", "wrong", "change"),
    [
        ("batch_norm", "batch_norm_forward", lambda y, mean, rstd: mean.__setitem__(3, 9)),
        ("conv2d", "conv2d_backward", lambda dx, dw, db: spoil(db)),
        ("max_pool2d", "max_pool2d_saved", lambda y, codes: codes.__setitem__((0, 0, 1, 1), 99)),
        ("adaptive_max_pool2d", "adaptive_max_pool2d_saved", spoil),
        ("scaled_dot_product_attention", "scaled_dot_product_attention_backward", spoil),
        ("relu", "relu_backward", lambda dx: dx.__setitem__((0, 1, 2, 3), np.nan)),
    ],
)
def test_wrong_results_of_any_op_are_found(checked, op, wrong, change):
    checked(wrong, change)
    args, kwargs = SAMPLES[op](np.float32)
    with pytest.raises(shadow.ShadowError, match=rf"\[{wrong}\] .* replay .*\.npz"):
        y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
        pullback(np.cos(y))


def test_wrong_steps_of_optimisers_are_found(checked, monkeypatch):
    right = _core.adam_step

    @functools.wraps(right)
    def wrong(params: Any, *args: Any, **kwargs: Any) -> None:
        right(params, *args, **kwargs)
        params[1][2] += 1e-3

    x = [random(5, np.float32), random(6, np.float32)]
    optimizer = fastdl.optim.Adam(x)
    checked()
    optimizer.step([random(5, np.float32), random(6, np.float32)])
    monkeypatch.setattr(_core, "adam_step", wrong)
    shadow.install("1")
    with pytest.raises(shadow.ShadowError, match=r"\[adam_step\] result 1: element \(2,\)"):
        optimizer.step([random(5, np.float32), random(6, np.float32)])


def test_a_share_of_the_calls_is_checked_the_same_each_time(checked, monkeypatch):
    x = np.ones(8, np.float32)

    def which() -> list[int]:
        monkeypatch.setattr(_core, "relu_forward", unwrapped)
        shadow.install("0.2")
        found = []
        for i in range(200):
            try:
                fastdl.relu(x)
            except shadow.ShadowError:
                found.append(i)
        return found

    checked("relu_forward", spoil)
    unwrapped = _core.relu_forward.__wrapped__  # the one that is wrong
    assert which() == which()
    assert 20 < len(which()) < 60


@pytest.mark.parametrize("value", ["half", "-1", "2", "nan"])
def test_a_share_that_is_none(value):
    with pytest.raises(ValueError, match=r"\[FASTDL_SHADOW\] expected a share between 0 and 1"):
        shadow.install(value)


def test_patched_models_are_checked(torch, tmp_path):
    code = """
import sys, torch, fastdl
if sys.argv[1:]:
    right = fastdl._core.conv2d_backward.__wrapped__
    def wrong(*args):
        dx, dweight, dbias = right(*args)
        dweight[1, 0, 1, 2] *= 1.01
        return dx, dweight, dbias
    wrong.__doc__ = right.__doc__
    fastdl._core.conv2d_backward = wrong
    fastdl.shadow.install("1")
import fastdl.torch as ft
nn = torch.nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                      nn.MaxPool2d(2), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(8, 5))
ft.patch(model)
model = torch.compile(model, backend="aot_eager") if "compile" in sys.argv else model
optimizer = ft.optim.Adam(model.parameters())
for step in range(3):
    optimizer.zero_grad()
    x = torch.randn(4, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", enabled=step == 2):
        loss = ft.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    optimizer.step()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    broken = run(code, "compile", TMPDIR=str(tmp_path))
    assert broken.returncode == 1
    found = re.search(
        r"ShadowError: \[conv2d_backward\] result 1: element \(1, 0, 1, 2\) .* replay (\S+)",
        broken.stderr,
    )
    assert found, broken.stderr
    again = subprocess.run(
        [sys.executable, "-m", "fastdl", "replay", found[1]], capture_output=True, text=True
    )
    assert (again.returncode, again.stdout) == (0, "as it should be\n"), again.stderr


def test_nothing_is_wrapped_without_the_variable():
    code = "import fastdl, sys; print({'fastdl.shadow', 'fastdl.reference'} & {*sys.modules})"
    assert run(code, FASTDL_SHADOW="").stdout == "set()\n"


def test_calls_on_a_device_are_not_checked():
    class OnDevice:
        is_cuda = True

    assert shadow._is_on_device([(np.ones(2), {"counts": [OnDevice()]})])
    assert not shadow._is_on_device([(np.ones(2), None), {"step": 1}])
