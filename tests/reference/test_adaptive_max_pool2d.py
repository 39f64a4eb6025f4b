import numpy as np
import pytest

from fastdl.reference import adaptive_max_pool2d_backward, adaptive_max_pool2d_forward
from tests.gradcheck import numerical_gradient

CASES = [
    pytest.param((2, 3, 4, 6), (2, 3), id="divides"),
    pytest.param((2, 3, 5, 7), 1, id="global"),
    pytest.param((3, 5, 7), (3, 4), id="unbatched, overlapping"),
    pytest.param((1, 2, 7, 5), 5, id="one axis kept"),
    pytest.param((1, 2, 4, 6), (None, 2), id="None keeps"),
    pytest.param((1, 1, 2, 3), (5, 4), id="larger than the input"),  # windows share their maximum
    pytest.param((1, 1, 10, 13), (7, 6), id="coprime"),
    pytest.param((0, 2, 4, 4), 2, id="empty batch"),
]
# torch has the forward, but refuses the backward
NO_OUTPUTS = pytest.param((1, 2, 3, 4), (0, 2), id="no outputs")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("shape", "output_size"), [*CASES, NO_OUTPUTS])
def test_backward_is_the_derivative(shape, output_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y, indices = adaptive_max_pool2d_forward(x, output_size)
    dy = rng.normal(size=y.shape)
    expected = numerical_gradient(lambda x: adaptive_max_pool2d_forward(x, output_size)[0], x, dy)
    dx = adaptive_max_pool2d_backward(dy, indices, x.shape)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("shape", "output_size"), CASES)
def test_agrees_with_torch(torch, shape, output_size, ties):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    if ties:
        x = np.round(x)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch, indices_torch = torch.nn.functional.adaptive_max_pool2d(
        x_torch, output_size, return_indices=True
    )
    dy = rng.normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y, indices = adaptive_max_pool2d_forward(x, output_size)
    np.testing.assert_array_equal(y, y_torch.detach(), strict=True)
    np.testing.assert_array_equal(indices, indices_torch, strict=True)
    dx = adaptive_max_pool2d_backward(dy, indices, x.shape)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14, strict=True)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([1.0, np.nan, 5.0, 2.0, 7.0], id="NaN"),
        pytest.param([np.nan, 5.0, np.nan, np.nan, 7.0], id="several NaN"),
        pytest.param([np.inf, np.nan, np.inf, 2.0, 7.0], id="NaN and inf"),
        pytest.param([-np.inf] * 5, id="all -inf"),
        pytest.param([np.inf, np.inf, 1.0, -np.inf, np.inf], id="inf"),
        pytest.param([-0.0, 0.0, -0.0, 0.0, -0.0], id="signed zeros"),
    ],
)
def test_special_values_are_those_of_torch(torch, row):
    x = np.array(row).reshape(1, 1, 5)
    expected = torch.nn.functional.adaptive_max_pool2d(torch.tensor(x), (1, 2), return_indices=True)
    y, indices = adaptive_max_pool2d_forward(x, (1, 2))
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(np.signbit(y), torch.signbit(expected[0]))
    np.testing.assert_array_equal(indices, expected[1])
