"""Arrays of CuPy: those of a GPU, or, on the emulator, of a module that has what we use of CuPy."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastdl
from tests.cuda import BUILD, has_cuda
from tests.testing import assert_close, assert_same_bits, random

pytestmark = pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")


def imitation() -> ModuleType:
    """CuPy, by NumPy: the attributes and functions that csrc/bindings/cupy.cpp asks for."""

    class ndarray:
        __module__ = "cupy"

        def __init__(self, array: Any) -> None:
            self.array = array
            self.data = SimpleNamespace(ptr=array.ctypes.data)
            self.device = SimpleNamespace(id=0)

        def __getattr__(self, name: str) -> Any:
            if name not in ("shape", "strides", "dtype", "itemsize", "ndim"):
                raise AttributeError(name)
            return getattr(self.array, name)

        def __getitem__(self, index: tuple[()]) -> "ndarray":
            return self

        def astype(self, dtype: Any, copy: bool = True) -> "ndarray":
            return ndarray(self.array.astype(dtype, copy=copy))

    def copyto(to: ndarray, array: ndarray) -> None:
        to.array[...] = array.array

    module = ModuleType("cupy")
    members = {
        "ndarray": ndarray,
        "asarray": ndarray,
        "asnumpy": lambda x: x.array,
        "empty": lambda shape, dtype: ndarray(np.empty(shape, dtype)),
        "ascontiguousarray": lambda x, dtype: ndarray(np.array(x.array, dtype, order="C")),
        "copyto": copyto,
        "cuda": SimpleNamespace(get_current_stream=lambda device: SimpleNamespace(ptr=0)),
    }
    for name, member in members.items():
        setattr(module, name, member)
    return module


@pytest.fixture
def cupy(monkeypatch):
    if BUILD != "emulated":
        return pytest.importorskip("cupy", reason="CuPy is not installed")
    module = imitation()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_results_are_cupys_cuda(cupy, dtype):
    x = random((5, 7), dtype)
    y = fastdl.softmax(cupy.asarray(x), dim=1)
    assert type(y) is cupy.ndarray
    assert y.dtype == dtype
    assert_close(cupy.asnumpy(y), fastdl.softmax(x, dim=1))


def test_any_layout_is_taken_and_written_cuda(cupy):
    x = random((6, 8), np.float32)
    there = cupy.asarray(x.T[::2])
    out = np.zeros((4, 12), np.float32)[:, ::2]
    given = cupy.asarray(out)
    assert fastdl.softmax(there, dim=0, out=given) is given
    assert_close(cupy.asnumpy(given), fastdl.softmax(x.T[::2], dim=0))


def test_gradients_cuda(cupy):
    x, weight = random((2, 3, 6, 6), np.float32), random((4, 3, 3, 3), np.float32)
    y, pullback = fastdl.vjp(fastdl.conv2d, cupy.asarray(x), cupy.asarray(weight), padding=1)
    expected, expected_pullback = fastdl.vjp(fastdl.conv2d, x, weight, padding=1)
    assert_close(cupy.asnumpy(y), expected)
    dy = random(expected.shape, np.float32)
    gradients = pullback(cupy.asarray(dy))
    for gradient, like in zip(gradients, expected_pullback(dy), strict=True):
        assert_close(cupy.asnumpy(gradient), like)


def test_classes_and_steps_cuda(cupy):
    x, target = random((5, 9), np.float32), np.arange(5)
    loss = fastdl.cross_entropy(cupy.asarray(x), cupy.asarray(target.astype(np.int32)))
    assert_close(cupy.asnumpy(loss), fastdl.cross_entropy(x, target))
    param, grad = random((7,), np.float32), random((7,), np.float32, seed=1)
    there = cupy.asarray(param.copy())
    fastdl.sgd_step([there], [cupy.asarray(grad)], None, lr=0.1, step=1)
    fastdl.sgd_step([param], [grad], None, lr=0.1, step=1)
    assert_same_bits(cupy.asnumpy(there), param)


def test_arguments_are_checked_cuda(cupy):
    x = cupy.asarray(random((5, 7), np.float32))
    with pytest.raises(TypeError, match=r"x must be a float16.*got int32; .*\.astype\(cupy\."):
        fastdl.softmax(cupy.asarray(np.zeros(3, np.int32)), dim=0)
    with pytest.raises(TypeError, match=r"x must be a float16.*got complex128"):
        fastdl.softmax(cupy.asarray(np.zeros(3, complex)), dim=0)
    with pytest.raises(TypeError, match=r"\[matmul\] other is a numpy.ndarray, x a cupy.ndarray"):
        fastdl.matmul(x, np.zeros((7, 5), np.float32))
    with pytest.raises(ValueError, match="dim 2 is out of range"):
        fastdl.softmax(x, dim=2)
