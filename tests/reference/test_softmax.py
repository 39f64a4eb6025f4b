import numpy as np
import pytest

from fastdl.reference import softmax_backward, softmax_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((), -1, id="scalar"),
    pytest.param((1,), 0, id="one element"),
    pytest.param((7,), -1, id="vector"),
    pytest.param((3, 5), 1, id="rows"),
    pytest.param((3, 5), 0, id="columns"),
    pytest.param((2, 3, 4), 1, id="middle dim"),
    pytest.param((0, 3), 1, id="empty batch"),
    pytest.param((3, 0), 1, id="empty dim"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_backward_is_the_derivative(shape, dim):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape))
    dx = softmax_backward(dy, softmax_forward(x, dim), dim)
    expected = numerical_gradient(lambda x: softmax_forward(x, dim), x, dy)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-8, strict=True)


@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_agrees_with_torch(torch, shape, dim):
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(2, *shape))
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.nn.functional.softmax(x_torch, dim)
    y_torch.backward(torch.tensor(dy))

    y = softmax_forward(x, dim)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=1e-12, strict=True)
    dx = softmax_backward(dy, y, dim)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14, strict=True)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([-np.inf, -np.inf, -np.inf], id="all -inf"),
        pytest.param([-np.inf, 1.0, 2.0], id="one -inf"),
        pytest.param([np.inf, 1.0, -np.inf], id="one +inf"),
        pytest.param([np.nan, 1.0, 2.0], id="NaN"),
        pytest.param([1e4, -1e4, 9999.0], id="large"),
    ],
)
def test_special_values_are_those_of_torch(torch, row):
    expected = torch.nn.functional.softmax(torch.tensor(row, dtype=torch.float64), 0)
    np.testing.assert_allclose(softmax_forward(row, 0), expected, rtol=1e-12)


def test_computes_in_float64():
    x = np.ones(3, np.float16)
    assert softmax_forward(x, 0).dtype == np.float64
    assert softmax_backward(x, x, 0).dtype == np.float64
