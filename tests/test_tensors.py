"""Tensors of PyTorch where arrays of NumPy are taken: in and out of the native module."""

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest

import fastdl
from fastdl import _core
from tests.testing import random

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

DTYPES = ("float32", "float64", "bfloat16", "float16")


def tensor(shape: Any, dtype: str = "float32", seed: int = 0) -> Any:
    return torch.tensor(random(shape, seed=seed)).to(getattr(torch, dtype))


def assert_equal(y: Any, x: Any, dim: int = 1) -> None:
    """y is softmax(x, dim) to the last bit."""
    reference = _core.softmax_forward(x.detach().to(torch.float64).numpy(), dim)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(
        y.to(torch.float64).numpy(), reference, rtol=0, atol=torch.finfo(x.dtype).eps
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_makes_a_tensor(dtype):
    x = tensor((3, 17), dtype)
    assert_equal(_core.softmax_forward(x, 1), x)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda x: x.t(), id="transposed"),
        pytest.param(lambda x: x[:, ::2], id="strided"),
        pytest.param(lambda x: x[1:, 3:], id="sliced"),
        pytest.param(lambda x: x[:, :1].expand(-1, 9), id="expanded"),
        pytest.param(lambda x: x[:0], id="empty"),
        pytest.param(lambda x: torch._neg_view(x), id="negated"),
        pytest.param(lambda x: x.as_strided((2, 2), (1, 1)), id="overlapping"),
        pytest.param(lambda x: x[:1].as_strided((1, 3), (99, 1)), id="any stride of a size of 1"),
        pytest.param(lambda x: torch.nn.Parameter(x), id="parameter"),
        pytest.param(lambda x: x.requires_grad_() * 2, id="in a graph"),
    ],
)
def test_any_layout(view):
    x = view(tensor((5, 11)))
    assert_equal(_core.softmax_forward(x, 1), x)


def test_no_dimension():
    assert _core.softmax_forward(torch.tensor(2.0), 0).item() == 1


def test_integers_and_masks():
    x, target = tensor((4, 3)), torch.tensor([0, 2, 1, 1], dtype=torch.int32)
    loss = fastdl.cross_entropy(x, target)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x, target.long()))
    q, mask = tensor((1, 4, 8)), torch.tensor([[True, False, True, True]])
    y = _core.scaled_dot_product_attention_forward(q, q, q, mask)[0]
    torch.testing.assert_close(
        y, torch.nn.functional.scaled_dot_product_attention(q, q, q, mask.expand(4, 4))
    )


def test_results_are_written_to_tensors():
    x, base = tensor((3, 5)), torch.zeros(5, 3)
    assert _core.softmax_forward(x, 1, base.t()) is not base
    assert_equal(base.t(), x)
    weight = torch.nn.Parameter(tensor((7,)))
    before = weight.detach().clone()
    _core.sgd_step([weight], [torch.ones(7)], None, 1, 0.5, 0, 0, 0, False, False)
    torch.testing.assert_close(weight.detach(), before - 0.5)


def test_memory_is_the_pools_and_goes_back():
    y = _core.softmax_forward(tensor((1000, 100)), 1)
    assert y.data_ptr() % 64 == 0
    gc.collect()
    before = _core.buffer_pool_size()
    del y
    assert _core.buffer_pool_size() > before


def test_results_are_tensors_like_any_other():
    y = _core.softmax_forward(tensor((3, 5)), 1)
    expected = y.clone()
    assert torch.equal(pickle.loads(pickle.dumps(y)), expected)
    assert torch.equal(copy.deepcopy(y), expected)
    assert torch.equal(y.share_memory_().add_(1), expected + 1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.ones(2, 3, dtype=torch.int32), r"float array|convert it with .to\(torch"),
        (lambda: torch.ones(2, 3, dtype=torch.complex64), "got torch.complex64"),
        (lambda: torch.ones(2, 3).to(torch.float8_e4m3fn), "got torch.float8_e4m3fn"),
        (lambda: torch.ones(2, 3).to_sparse(), "no dense tensor"),
        (lambda: torch.ones(2, 3).to_mkldnn(), "no dense tensor"),
        (lambda: torch.ones(2, 3, device="meta"), "no dense tensor"),
        (lambda: [[1.0]], "must be a NumPy array, got list"),
    ],
)
def test_errors(make, expected):
    with pytest.raises(TypeError, match=expected):
        _core.softmax_forward(make(), 1)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_tensor_without_memory_is_refused():
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(2, 3)
    with pytest.raises(TypeError, match="has no memory"):
        _core.softmax_forward(fake, 1)


def test_transformed_tensors_are_refused():
    with pytest.raises(TypeError, match="no dense tensor"):
        torch.vmap(lambda x: _core.softmax_forward(x, 0))(torch.ones(2, 3))
    with pytest.raises(TypeError, match="no dense tensor"):
        torch.func.grad(lambda x: _core.softmax_forward(x, 0).sum())(torch.ones(3))


def test_kinds_are_not_mixed():
    with pytest.raises(TypeError, match=r"\[linear\] weight is a numpy.ndarray, x a torch.Tensor"):
        _core.linear_forward(torch.ones(2, 3), np.ones((4, 3), np.float32), None)


def test_overlap_is_refused():
    x = torch.ones(3, 6)
    with pytest.raises(ValueError, match="out shares memory with x"):
        _core.softmax_forward(x[:, :4], 1, x[:, 2:])
    columns = torch.ones(3, 6)
    _core.softmax_forward(columns[:, ::2], 1, columns[:, 1::2])  # apart, though interleaved
