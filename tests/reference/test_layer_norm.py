import numpy as np
import pytest

from fastdl.reference import layer_norm_backward, layer_norm_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((3, 5), (5,), id="rows"),
    pytest.param((2, 3, 4), (4,), id="3-D"),
    pytest.param((2, 3, 4), (3, 4), id="two axes"),
    pytest.param((3, 4), (3, 4), id="all axes"),  # mean and rstd are scalars
    pytest.param((3, 1), (1,), id="one element"),  # y = bias, dx = 0
    pytest.param((0, 4), (4,), id="empty batch"),
    pytest.param((2, 0), (0,), id="empty rows"),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_inputs(shape, normalized_shape):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(1.0, 2.0, size=(2, *shape))
    weight, bias = rng.normal(size=(2, *normalized_shape))
    return x, dy, weight, bias


@pytest.mark.parametrize(("shape", "normalized_shape"), SHAPES)
def test_backward_is_the_derivative(shape, normalized_shape):
    x, dy, weight, bias = make_inputs(shape, normalized_shape)

    def forward(x, weight, bias):
        return layer_norm_forward(x, normalized_shape, weight, bias)

    _, mean, rstd = forward(x, weight, bias)
    expected = (
        numerical_gradient(lambda x: forward(x, weight, bias)[0], x, dy),
        numerical_gradient(lambda weight: forward(x, weight, bias)[0], weight, dy),
        numerical_gradient(lambda bias: forward(x, weight, bias)[0], bias, dy),
    )
    gradients = layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)
    for actual, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-6, strict=True)


@pytest.mark.parametrize(("shape", "normalized_shape"), SHAPES)
def test_agrees_with_torch(torch, shape, normalized_shape):
    x, dy, weight, bias = make_inputs(shape, normalized_shape)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y_torch = torch.nn.functional.layer_norm(inputs[0], normalized_shape, *inputs[1:], eps=1e-3)
    y_torch.backward(torch.tensor(dy))

    y, mean, rstd = layer_norm_forward(x, normalized_shape, weight, bias, eps=1e-3)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-13, strict=True)
    gradients = layer_norm_backward(dy, x, normalized_shape, mean, rstd, weight)
    for actual, tensor in zip(gradients, inputs, strict=True):
        np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-12, strict=True)


@pytest.mark.parametrize(("shape", "normalized_shape"), SHAPES)
def test_statistics_have_the_leading_dims(shape, normalized_shape):
    x, *_ = make_inputs(shape, normalized_shape)
    _, mean, rstd = layer_norm_forward(x, normalized_shape)
    assert mean.shape == rstd.shape == shape[: len(shape) - len(normalized_shape)]


def test_without_weight():
    x, dy, *_ = make_inputs((3, 5), (5,))
    y, mean, rstd = layer_norm_forward(x, 5)
    np.testing.assert_allclose(y, (x - mean[:, None]) * rstd[:, None])
    expected, _, _ = layer_norm_backward(dy, x, 5, mean, rstd, np.ones(5))
    dx, dweight, dbias = layer_norm_backward(dy, x, 5, mean, rstd, output_mask=(True, False, False))
    np.testing.assert_array_equal(dx, expected)
    assert dweight is None and dbias is None


def test_special_values_stay_in_their_rows():
    y, _, _ = layer_norm_forward([[1.0, 3.0], [np.inf, 1.0], [np.nan, 1.0]], 2, eps=0.0)
    np.testing.assert_array_equal(y, [[-1.0, 1.0], [np.nan, np.nan], [np.nan, np.nan]])
