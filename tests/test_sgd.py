import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.cuda import has_cuda, on_cuda
from tests.testing import (
    LENGTHS,
    assert_close,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
    random,
)

OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"weight_decay": 0.1}, id="weight decay"),
    pytest.param({"maximize": True, "weight_decay": 0.1}, id="maximize"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.9, "dampening": 0.3}, id="dampening"),
    pytest.param({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="nesterov"),
]
SHAPES = [(), *[(n,) for n in LENGTHS], (3, 5, 7), (2, 40009), (0, 4)]


def problem(shapes, dtype):
    return [[random(shape, dtype, seed=k) for shape in shapes] for k in range(3)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_step(isa, dtype, options, count):
    params, grads, buffers = problem(SHAPES, dtype)
    if count == 1:
        for buffer in buffers:
            buffer.fill(np.nan)  # what they hold does not matter
    expected, expected_buffers = ([a.astype(np.float64) for a in b] for b in (params, buffers))
    fastdl.sgd_step(params, grads, buffers, step=count, lr=0.1, **options)
    reference.sgd_step(expected, grads, expected_buffers, step=count, lr=0.1, **options)
    for array, value in zip(params + buffers, expected + expected_buffers, strict=True):
        assert_close(array, value)


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
@pytest.mark.parametrize("found_inf", [0.0, 1.0])
def test_a_device_unscales_cuda(found_inf):
    lists = problem([(3,), (20011,)], np.float32)
    params, grads, buffers = ([a.copy() for a in arrays] for arrays in lists)
    before = [[a.copy() for a in arrays] for arrays in (params, [8 * g for g in grads], buffers)]
    options = {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}
    with on_cuda():
        fastdl.sgd_step(params, grads, buffers, step=2, lr=float(np.float32(0.1)), **options)
        for grad in lists[1]:
            grad *= 8
        fastdl._core.sgd_step(
            *lists, step=2, lr=0.0, **options, nesterov=False, maximize=False,
            device_lr=np.array([0.1], np.float32), grad_scale=np.array(8, np.float32),
            found_inf=np.array(found_inf, np.float32),
        )  # fmt: skip
    assert_same_bits(lists, before if found_inf else [params, grads, buffers])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e-45, -0.0], ids=str)
@pytest.mark.parametrize("place", range(3), ids=["param", "grad", "buffer"])
@pytest.mark.parametrize("options", OPTIONS)
def test_special_values(isa, options, place, value):
    lists = problem([(37,)], np.float32)
    lists[place][0][[3, 36]] = value  # in the body and in the tail
    expected = [[a.astype(np.float64) for a in arrays] for arrays in lists]
    fastdl.sgd_step(*lists, step=2, **options)
    reference.sgd_step(*expected, step=2, **options)
    np.testing.assert_allclose(lists[0][0], expected[0][0], rtol=1e-5, atol=1e-6)


def test_steps_of_each():
    lists = problem([(3,), (40009,), (5, 2)], np.float32)
    expected = [[a.copy() for a in arrays] for arrays in lists]
    fastdl.sgd_step(*lists, step=[1, 2, 1], momentum=0.9, dampening=0.5)
    for i, count in enumerate([1, 2, 1]):
        one = [arrays[i : i + 1] for arrays in expected]
        fastdl.sgd_step(*one, step=count, momentum=0.9, dampening=0.5)
    assert_same_bits(lists, expected)


def test_same_bits_for_any_threads(isa, dtype):
    shapes = [(n % 97,) for n in range(300)] + [(50021,), (3,)]

    def run():
        lists = problem(shapes, dtype)
        fastdl.sgd_step(*lists, step=2, momentum=0.9, weight_decay=0.1)
        return lists

    assert_same_bits_for_any_threads(run)


def test_any_layout(dtype):
    originals = problem([(5, 6, 7)], dtype)
    expected = [[a.copy() for a in arrays] for arrays in originals]
    fastdl.sgd_step(*expected, step=2, momentum=0.9)
    for name in layouts(originals[0][0]):
        if name == "read-only":
            continue
        lists = [[layouts(arrays[0])[name]] for arrays in originals]
        fastdl.sgd_step(*lists, step=2, momentum=0.9)
        for arrays, values in zip(lists, expected, strict=True):
            np.testing.assert_array_equal(arrays[0], values[0])


def test_buffers_without_momentum_are_left_alone():
    params, grads, buffers = problem([(5,)], np.float64)
    before = buffers[0].copy()
    fastdl.sgd_step(params, grads, buffers, step=1)
    assert_same_bits(buffers[0], before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"params": np.ones((2, 3))}, TypeError, "params must be a list of arrays, got ndarray"),
        ({"grads": [None]}, TypeError, r"grads\[0\] must be a NumPy array, got NoneType"),
        ({"grads": []}, ValueError, "grads holds 0 arrays, params holds 1"),
        ({"momentum_buffers": [np.ones(6)]}, ValueError, r"momentum_buffers\[0\] must have shape"),
        ({"momentum_buffers": None}, ValueError, "momentum 0.5 needs momentum_buffers"),
        ({"grads": [np.ones((2, 3), np.float32)]}, TypeError, r"grads\[0\] is float32, params"),
        ({"step": 0}, ValueError, "step counts from 1, got 0"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1"),
        ({"momentum": -0.5}, ValueError, "momentum must be at least 0"),
        ({"weight_decay": np.nan}, ValueError, "weight_decay must be at least 0, got nan"),
        ({"nesterov": True, "dampening": 0.5}, ValueError, "nesterov needs a momentum and no damp"),
        ({"nesterov": True, "momentum": 0.0}, ValueError, "nesterov needs a momentum and no damp"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_change_nothing(change, error, message):
    arguments = {name: [np.ones((2, 3))] for name in ("params", "grads", "momentum_buffers")}
    arguments |= {"step": 2, "momentum": 0.5, **change}
    arrays = [a[0] for a in arguments.values() if isinstance(a, list) and a and a[0] is not None]
    with pytest.raises(error, match=rf"^\[sgd_step\] {message}"):
        fastdl.sgd_step(**arguments)
    assert all((a == 1).all() for a in arrays)


def test_overlap_is_refused():
    buffer = np.ones(30)
    for bad in ([[buffer], [buffer]], [[buffer[:20], buffer[19:]], [np.ones(20), np.ones(11)]]):
        with pytest.raises(ValueError, match="shares memory with"):
            fastdl.sgd_step(*bad, step=1)
    assert (buffer == 1).all()
