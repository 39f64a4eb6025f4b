import numpy as np
import pytest

from fastdl.reference import avg_pool2d_backward, avg_pool2d_forward
from tests.gradcheck import numerical_gradient

CASES = [
    pytest.param((2, 3, 4, 6), {"kernel_size": 2}, id="stride is kernel"),
    pytest.param((3, 5, 4), {"kernel_size": (3, 2), "stride": 1}, id="unbatched"),
    pytest.param((1, 2, 5, 6), {"kernel_size": 3, "stride": 2, "padding": 1}, id="padded"),
    pytest.param((1, 1, 7, 8), {"kernel_size": 2, "stride": (3, 2)}, id="gaps"),
    pytest.param((1, 1, 5, 7), {"kernel_size": 2, "ceil_mode": True}, id="ceil_mode"),
    # the last window reaches beyond the right padding; only its part inside counts
    pytest.param(
        (1, 1, 7, 7),
        {"kernel_size": 4, "stride": 3, "padding": 1, "ceil_mode": True},
        id="ceil_mode, padded",
    ),
    # the fourth window would start in the right padding and is left out
    pytest.param(
        (1, 1, 5, 5), {"kernel_size": 2, "padding": 1, "ceil_mode": True}, id="ceil_mode, no start"
    ),
    pytest.param((0, 2, 4, 4), {"kernel_size": 2, "padding": 1}, id="empty batch"),
]
COUNTS = [
    pytest.param({}, id="count pad"),
    pytest.param({"count_include_pad": False}, id="count inside"),
    pytest.param({"divisor_override": 3}, id="divisor"),
    pytest.param({"count_include_pad": False, "divisor_override": -2}, id="negative divisor"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_backward_is_the_derivative(shape, options, count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    dy = rng.normal(size=avg_pool2d_forward(x, **options, **count).shape)
    expected = numerical_gradient(lambda x: avg_pool2d_forward(x, **options, **count), x, dy)
    dx = avg_pool2d_backward(dy, x.shape, **options, **count)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_agrees_with_torch(torch, shape, options, count):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = torch.nn.functional.avg_pool2d(x_torch, **options, **count)
    dy = rng.normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y = avg_pool2d_forward(x, **options, **count)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-14, strict=True)
    dx = avg_pool2d_backward(dy, x.shape, **options, **count)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14, strict=True)


def test_special_values_stay_in_their_windows():
    x = np.array([[[np.inf, 1.0, -np.inf, np.inf, np.nan, 1.0, 1.0, 1.0]]])
    expected = [[[np.inf, np.nan, np.nan, 1.0]]]
    np.testing.assert_array_equal(avg_pool2d_forward(x, (1, 2)), expected)
