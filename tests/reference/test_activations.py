import numpy as np
import pytest

from fastdl import reference
from tests.gradcheck import numerical_gradient

# op and keyword arguments
ACTIVATIONS = [
    pytest.param("relu", {}, id="relu"),
    pytest.param("relu6", {}, id="relu6"),
    pytest.param("leaky_relu", {}, id="leaky_relu"),
    pytest.param("leaky_relu", {"negative_slope": 0.0}, id="leaky_relu flat"),
    pytest.param("leaky_relu", {"negative_slope": -1.5}, id="leaky_relu rising"),
    pytest.param("elu", {}, id="elu"),
    pytest.param("elu", {"alpha": -2.0}, id="elu negative alpha"),
    pytest.param("sigmoid", {}, id="sigmoid"),
    pytest.param("tanh", {}, id="tanh"),
    pytest.param("silu", {}, id="silu"),
    pytest.param("gelu", {}, id="gelu"),
    pytest.param("gelu", {"approximate": "tanh"}, id="gelu tanh"),
]

SHAPES = [
    pytest.param((), id="scalar"),
    pytest.param((0,), id="empty"),
    pytest.param((17,), id="vector"),
    pytest.param((2, 3, 5), id="three dims"),
]

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4, 1e-310, -1e-310, 800.0, -800.0, 30.0]
SPECIAL += [6.0, -6.0]  # where relu6 ends


def forward(op, x, **kwargs):
    return getattr(reference, f"{op}_forward")(x, **kwargs)


def backward(op, dy, x, **kwargs):
    """The backward of op at the input x: sigmoid and tanh take their output instead."""
    given = forward(op, x) if op in ("sigmoid", "tanh") else x
    return getattr(reference, f"{op}_backward")(dy, given, **kwargs)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_backward_is_the_derivative(op, kwargs, shape):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape)) * 3
    expected = numerical_gradient(lambda x: forward(op, x, **kwargs), x, dy)
    dx = backward(op, dy, x, **kwargs)
    np.testing.assert_allclose(dx, expected, rtol=1e-6, atol=1e-8, strict=True)


@pytest.mark.parametrize(
    "x", [np.linspace(-12, 12, 197), np.array(SPECIAL)], ids=["line", "special"]
)
@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_agrees_with_torch(torch, op, kwargs, x):
    x_torch = torch.tensor(x, requires_grad=True)
    y_torch = getattr(torch.nn.functional, op)(x_torch, **kwargs)
    y_torch.sum().backward()

    y = forward(op, x, **kwargs)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=1e-12, atol=1e-14, strict=True)
    dx = backward(op, np.ones_like(x), x, **kwargs)
    dx_torch = x_torch.grad.numpy()
    if op == "relu6":  # at NaN, PyTorch's vectors have 0 and what is left past them dy
        dx_torch[np.isnan(x)] = 1
    np.testing.assert_allclose(dx, dx_torch, rtol=1e-12, atol=1e-13, strict=True)


@pytest.mark.parametrize("op", ["relu", "relu6", "leaky_relu", "elu"])
def test_sign_of_zero_is_kept(op):
    assert np.array_equal(np.signbit(forward(op, np.array([0.0, -0.0]))), [False, True])


def test_gelu_has_no_cancellation_at_negative_x():
    # x * Phi(x) at -10, Phi(-10) = 7.619853024160527e-24 (tables of the normal distribution)
    np.testing.assert_allclose(forward("gelu", -10.0), -7.619853024160527e-23, rtol=1e-13)


@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_computes_in_float64(op, kwargs):
    x = np.ones(3, np.float16)
    assert forward(op, x, **kwargs).dtype == np.float64
    assert backward(op, x, x, **kwargs).dtype == np.float64
