import numpy as np
import pytest

from fastdl.reference import adaptive_avg_pool2d_backward, adaptive_avg_pool2d_forward
from tests.gradcheck import numerical_gradient

CASES = [
    pytest.param((2, 3, 4, 6), (2, 3), id="divides"),
    pytest.param((2, 3, 5, 7), 1, id="global"),
    pytest.param((3, 5, 7), (3, 4), id="unbatched, overlapping"),
    pytest.param((1, 2, 7, 5), 5, id="one axis kept"),
    pytest.param((1, 2, 4, 6), (None, 2), id="None keeps"),
    pytest.param((1, 1, 2, 3), (5, 4), id="larger than the input"),
    pytest.param((1, 1, 10, 13), (7, 6), id="coprime"),
    pytest.param((0, 2, 4, 4), 2, id="empty batch"),
]
# torch has the forward of these, but refuses the backward
EMPTY_CASES = [
    pytest.param((1, 2, 3, 4), (0, 2), id="no outputs"),
    pytest.param((2, 0, 4, 4), 2, id="no channels"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("shape", "output_size"), CASES + EMPTY_CASES)
def test_backward_is_the_derivative(shape, output_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    dy = rng.normal(size=adaptive_avg_pool2d_forward(x, output_size).shape)
    expected = numerical_gradient(lambda x: adaptive_avg_pool2d_forward(x, output_size), x, dy)
    dx = adaptive_avg_pool2d_backward(dy, x.shape)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize(("shape", "output_size"), CASES)
def test_agrees_with_torch(torch, shape, output_size):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.nn.functional.adaptive_avg_pool2d(x_torch, output_size)
    dy = rng.normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y = adaptive_avg_pool2d_forward(x, output_size)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-14, strict=True)
    dx = adaptive_avg_pool2d_backward(dy, x.shape)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14, strict=True)


def test_special_values_stay_in_their_windows():
    x = np.array([[[np.inf, 1.0, -np.inf, np.inf, np.nan, 1.0, 1.0, 1.0]]])
    expected = [[[np.inf, np.nan, np.nan, 1.0]]]
    np.testing.assert_array_equal(adaptive_avg_pool2d_forward(x, (1, 4)), expected)
