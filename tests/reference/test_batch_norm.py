import numpy as np
import pytest

from fastdl.reference import batch_norm_backward, batch_norm_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((5, 3), id="2-D"),
    pytest.param((2, 3, 4), id="3-D"),
    pytest.param((2, 3, 4, 2), id="4-D"),
    pytest.param((2, 3, 2, 1, 2), id="5-D"),
    pytest.param((1, 2, 3, 2), id="batch of 1"),
    pytest.param((2, 3, 1, 1), id="2 values per channel"),  # the fewest with an unbiased variance
    pytest.param((0, 3, 2, 2), id="empty batch"),  # leaves the running statistics as they are
]
NO_CHANNELS = pytest.param((2, 0, 2, 2), id="no channels")  # torch indexes the channels from 0
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_inputs(shape):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(1.0, 2.0, size=(2, *shape))
    weight, bias, running_mean = rng.normal(size=(3, shape[1]))
    return x, dy, weight, bias, running_mean, rng.uniform(0.5, 2.0, size=shape[1])


@TRAINING
@pytest.mark.parametrize("shape", [*SHAPES, NO_CHANNELS])
def test_backward_is_the_derivative(shape, training):
    x, dy, weight, bias, *running = make_inputs(shape)

    def forward(x, weight, bias):
        return batch_norm_forward(x, *(r.copy() for r in running), weight, bias, training)

    _, mean, rstd = forward(x, weight, bias)
    expected = (
        numerical_gradient(lambda x: forward(x, weight, bias)[0], x, dy),
        numerical_gradient(lambda weight: forward(x, weight, bias)[0], weight, dy),
        numerical_gradient(lambda bias: forward(x, weight, bias)[0], bias, dy),
    )
    gradients = batch_norm_backward(dy, x, weight, mean, rstd, training)
    for actual, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-6, strict=True)


@TRAINING
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_torch(torch, shape, training):
    x, dy, weight, bias, *running = make_inputs(shape)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    running_torch = [torch.tensor(r) for r in running]
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    y_torch = torch.nn.functional.batch_norm(inputs[0], *running_torch, *inputs[1:], **options)
    y_torch.backward(torch.tensor(dy))

    y, mean, rstd = batch_norm_forward(x, *running, weight, bias, **options)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-13, strict=True)
    for actual, tensor in zip(running, running_torch, strict=True):
        np.testing.assert_allclose(actual, tensor, rtol=1e-13, strict=True)
    gradients = batch_norm_backward(dy, x, weight, mean, rstd, training)
    for actual, tensor in zip(gradients, inputs, strict=True):
        np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-12, strict=True)


def test_evaluation_returns_the_running_statistics():
    x, _, _, _, running_mean, running_var = make_inputs((2, 3, 4))
    _, mean, rstd = batch_norm_forward(x, running_mean, running_var)
    np.testing.assert_array_equal(mean, running_mean)
    np.testing.assert_allclose(rstd, (running_var + 1e-5) ** -0.5)
    assert not np.shares_memory(mean, running_mean)


def test_running_statistics_keep_their_dtype():
    x, _, _, _, running_mean, running_var = make_inputs((2, 3, 4))
    running = running_mean.astype(np.float32), running_var.astype(np.float32)
    batch_norm_forward(x, *running, training=True)
    batch_norm_forward(x, running_mean, running_var, training=True)
    np.testing.assert_allclose(running[0], running_mean, rtol=1e-6)
    np.testing.assert_allclose(running[1], running_var, rtol=1e-6)


def test_without_weight_and_running_statistics():
    x, dy, *_ = make_inputs((2, 3, 4))
    y, mean, rstd = batch_norm_forward(x, None, None, training=True)
    np.testing.assert_allclose(y.mean(axis=(0, 2)), np.zeros(3), atol=1e-14)
    np.testing.assert_allclose(y.std(axis=(0, 2)), np.ones(3), rtol=1e-4)
    expected, _, _ = batch_norm_backward(dy, x, np.ones(3), mean, rstd)
    dx, dweight, dbias = batch_norm_backward(dy, x, None, mean, rstd, True, (True, False, False))
    np.testing.assert_array_equal(dx, expected)
    assert dweight is None and dbias is None


def test_special_values_stay_in_their_channels():
    x = [[1.0, np.inf, np.nan], [3.0, 1.0, 1.0]]
    y, _, _ = batch_norm_forward(x, None, None, training=True, eps=0.0)
    np.testing.assert_array_equal(y, [[-1.0, np.nan, np.nan], [1.0, np.nan, np.nan]])
