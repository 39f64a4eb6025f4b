import numpy as np
import pytest

from fastdl.reference import matmul_backward, matmul_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((3, 4), (4, 5), id="matrices"),
    pytest.param((4,), (4,), id="dot product"),
    pytest.param((4,), (4, 5), id="row times matrix"),
    pytest.param((3, 4), (4,), id="matrix times column"),
    pytest.param((4,), (2, 4, 5), id="row times batch"),
    pytest.param((2, 2, 3, 4), (4,), id="batch times column"),
    pytest.param((2, 3, 4), (2, 4, 5), id="batches"),
    pytest.param((2, 3, 4), (4, 5), id="one right matrix"),
    pytest.param((3, 4), (2, 4, 5), id="one left matrix"),
    pytest.param((2, 1, 3, 4), (3, 4, 2), id="broadcast both"),
    pytest.param((1, 3, 4), (1, 4, 2), id="batches of 1"),
    pytest.param((1, 3, 4), (0, 4, 2), id="1 broadcast to 0"),
    pytest.param((0, 3, 4), (4, 2), id="empty batch"),
    pytest.param((2, 3, 0), (0, 2), id="empty sum"),  # y = 0
    pytest.param((0,), (0,), id="empty dot product"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_inputs(x_shape, other_shape):
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=x_shape), rng.normal(size=other_shape)
    return x, other, rng.normal(size=matmul_forward(x, other).shape)


@pytest.mark.parametrize(("x_shape", "other_shape"), SHAPES)
def test_backward_is_the_derivative(x_shape, other_shape):
    x, other, dy = make_inputs(x_shape, other_shape)
    expected = (
        numerical_gradient(lambda x: matmul_forward(x, other), x, dy),
        numerical_gradient(lambda other: matmul_forward(x, other), other, dy),
    )
    for actual, gradient in zip(matmul_backward(dy, x, other), expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize(("x_shape", "other_shape"), SHAPES)
def test_agrees_with_torch(torch, x_shape, other_shape):
    x, other, dy = make_inputs(x_shape, other_shape)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, other)]
    y_torch = torch.matmul(*inputs)
    y_torch.backward(torch.tensor(dy))

    y = matmul_forward(x, other)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-13, strict=True)
    for actual, tensor in zip(matmul_backward(dy, x, other), inputs, strict=True):
        np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-13, strict=True)


def test_output_mask():
    x, other, dy = make_inputs((3, 4), (4, 5))
    dx, dother = matmul_backward(dy, x, other, output_mask=(False, True))
    assert dx is None and dother.shape == other.shape


def test_inf_times_zero_is_nan():
    np.testing.assert_array_equal(matmul_forward([[np.inf, 1.0]], [[0.0], [1.0]]), [[np.nan]])
