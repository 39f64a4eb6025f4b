import numpy as np
import pytest

from fastdl.reference import max_pool2d_backward, max_pool2d_forward
from tests.gradcheck import numerical_gradient

CASES = [
    pytest.param((2, 3, 4, 6), {"kernel_size": 2}, id="stride is kernel"),
    pytest.param((3, 5, 4), {"kernel_size": (3, 2), "stride": 1}, id="unbatched"),
    pytest.param((1, 2, 5, 6), {"kernel_size": 3, "stride": 2, "padding": 1}, id="overlapping"),
    pytest.param((1, 1, 7, 8), {"kernel_size": 2, "stride": (3, 2)}, id="gaps"),
    pytest.param((1, 1, 8, 7), {"kernel_size": 2, "dilation": (3, 2), "padding": 1}, id="dilated"),
    pytest.param((1, 1, 5, 7), {"kernel_size": 2, "ceil_mode": True}, id="ceil_mode"),
    # the fourth window would start in the right padding and is left out
    pytest.param(
        (1, 1, 5, 5), {"kernel_size": 2, "padding": 1, "ceil_mode": True}, id="ceil_mode, no start"
    ),
    # the third window would start behind all padding
    pytest.param(
        (1, 1, 5, 7),
        {"kernel_size": (1, 3), "stride": (2, 5), "padding": (0, 1), "ceil_mode": True},
        id="ceil_mode, long stride",
    ),
    pytest.param(
        (1, 1, 7, 6),
        {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
        id="ceil_mode, dilated",
    ),
    pytest.param((0, 2, 4, 4), {"kernel_size": 2}, id="empty batch"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_backward_is_the_derivative(shape, options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    y, indices = max_pool2d_forward(x, **options)
    dy = rng.normal(size=y.shape)
    expected = numerical_gradient(lambda x: max_pool2d_forward(x, **options)[0], x, dy)
    dx = max_pool2d_backward(dy, indices, x.shape)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_agrees_with_torch(torch, shape, options, ties):
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape)
    if ties:
        x = np.round(x)
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch, indices_torch = torch.nn.functional.max_pool2d(x_torch, **options, return_indices=True)
    dy = rng.normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y, indices = max_pool2d_forward(x, **options)
    np.testing.assert_array_equal(y, y_torch.detach(), strict=True)
    np.testing.assert_array_equal(indices, indices_torch, strict=True)
    dx = max_pool2d_backward(dy, indices, x.shape)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=0, atol=1e-14, strict=True)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param([1.0, np.nan, 5.0, 2.0, 7.0], id="NaN"),
        pytest.param([np.nan, 5.0, np.nan, np.nan, 7.0], id="several NaN"),
        pytest.param([np.inf, np.nan, np.inf, 2.0, 7.0], id="NaN and inf"),
        pytest.param([-np.inf] * 5, id="all -inf"),  # padding is -inf as well, but does not win
        pytest.param([np.inf, np.inf, 1.0, -np.inf, np.inf], id="inf"),
        pytest.param([-0.0, 0.0, -0.0, 0.0, -0.0], id="signed zeros"),
    ],
)
def test_special_values_are_those_of_torch(torch, row):
    x = np.array(row).reshape(1, 1, 5)
    expected = torch.nn.functional.max_pool2d(
        torch.tensor(x), (1, 3), 1, (0, 1), return_indices=True
    )
    y, indices = max_pool2d_forward(x, (1, 3), 1, (0, 1))
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(np.signbit(y), torch.signbit(expected[0]))
    np.testing.assert_array_equal(indices, expected[1])


def test_window_of_padding_only_passes_no_gradient():
    # taps at columns -1 and 2 of a plane of width 2
    y, indices = max_pool2d_forward(np.ones((1, 1, 2)), (1, 2), 1, (0, 1), dilation=(1, 3))
    np.testing.assert_array_equal(y, [[[-np.inf]]])
    np.testing.assert_array_equal(indices, [[[-1]]])
    np.testing.assert_array_equal(max_pool2d_backward(y, indices, (1, 1, 2)), np.zeros((1, 1, 2)))
