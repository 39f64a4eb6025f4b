import numpy as np
import pytest

from fastdl.reference import linear_backward, linear_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((3, 4), (5, 4), id="matrix"),
    pytest.param((4,), (5, 4), id="vector"),
    pytest.param((2, 3, 4), (5, 4), id="leading dims"),
    pytest.param((3, 4), (1, 4), id="one output"),
    pytest.param((0, 4), (5, 4), id="empty batch"),
    pytest.param((3, 0), (5, 0), id="no inputs"),  # y = bias
    pytest.param((3, 4), (0, 4), id="no outputs"),
]
SHAPES_WITHOUT_BIAS = [
    pytest.param((3, 4), (4,), id="1-D weight"),  # y drops the last dim
    pytest.param((4,), (4,), id="dot product"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_inputs(x_shape, weight_shape):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=x_shape), rng.normal(size=weight_shape)
    bias = rng.normal(size=weight_shape[:-1])
    dy = rng.normal(size=linear_forward(x, weight, bias).shape)
    return x, weight, bias, dy


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES + SHAPES_WITHOUT_BIAS)
def test_backward_is_the_derivative(x_shape, weight_shape):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape)
    expected = (
        numerical_gradient(lambda x: linear_forward(x, weight, bias), x, dy),
        numerical_gradient(lambda weight: linear_forward(x, weight, bias), weight, dy),
        numerical_gradient(lambda bias: linear_forward(x, weight, bias), bias, dy),
    )
    for actual, gradient in zip(linear_backward(dy, x, weight), expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-7, strict=True)


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES)
def test_agrees_with_torch(torch, x_shape, weight_shape):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y_torch = torch.nn.functional.linear(*inputs)
    y_torch.backward(torch.tensor(dy))

    y = linear_forward(x, weight, bias)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-13, strict=True)
    for actual, tensor in zip(linear_backward(dy, x, weight), inputs, strict=True):
        np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-13, strict=True)


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES_WITHOUT_BIAS)
def test_agrees_with_torch_without_bias(torch, x_shape, weight_shape):
    x, weight, _, dy = make_inputs(x_shape, weight_shape)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight)]
    y_torch = torch.nn.functional.linear(*inputs)
    y_torch.backward(torch.tensor(dy))

    y = linear_forward(x, weight)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-13, strict=True)
    dx, dweight, dbias = linear_backward(dy, x, weight, output_mask=(True, True, False))
    np.testing.assert_allclose(dx, inputs[0].grad, rtol=0, atol=1e-13, strict=True)
    np.testing.assert_allclose(dweight, inputs[1].grad, rtol=0, atol=1e-13, strict=True)
    assert dbias is None


def test_inf_times_zero_is_nan():
    np.testing.assert_array_equal(linear_forward([[np.inf, 1.0]], [[0.0, 1.0]]), [[np.nan]])
