import numpy as np
import pytest

from fastdl.reference import conv2d_backward, conv2d_forward
from tests.gradcheck import numerical_gradient

CASES = [
    pytest.param((2, 3, 5, 4), (4, 3, 3, 2), {}, id="plain"),
    pytest.param((3, 5, 4), (2, 3, 2, 3), {"padding": 1}, id="unbatched"),
    pytest.param((2, 3, 4, 5), (2, 3, 1, 1), {}, id="pointwise"),
    pytest.param((1, 2, 7, 6), (3, 2, 3, 2), {"stride": (2, 3), "padding": (1, 0)}, id="strided"),
    # rows and columns 2, 5 and 6 are under no tap
    pytest.param((1, 1, 7, 7), (1, 1, 2, 2), {"stride": 3}, id="gaps"),
    pytest.param((1, 2, 7, 8), (2, 2, 2, 3), {"dilation": (3, 2), "padding": (0, 2)}, id="dilated"),
    pytest.param((2, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "padding": 1}, id="groups"),
    pytest.param((2, 3, 4, 4), (6, 1, 3, 3), {"groups": 3}, id="depthwise"),
    pytest.param((1, 2, 5, 4), (1, 2, 3, 3), {"padding": "same"}, id="same"),
    # the odd element of padding goes to the right and the bottom
    pytest.param((1, 2, 5, 4), (1, 2, 2, 4), {"padding": "same"}, id="same, even kernel"),
    pytest.param(
        (1, 1, 5, 5), (1, 1, 2, 2), {"padding": "same", "dilation": 3}, id="same, dilated"
    ),
    pytest.param((1, 2, 5, 4), (1, 2, 3, 3), {"padding": "valid"}, id="valid"),
    # padding larger than the kernel: the outermost outputs are bias only
    pytest.param((1, 1, 2, 3), (1, 1, 2, 2), {"padding": 3}, id="wide padding"),
    pytest.param((0, 3, 5, 4), (4, 3, 3, 2), {}, id="empty batch"),
]
# torch gives y no channels either; an empty sum leaves the bias
NO_INPUT_CHANNELS = pytest.param((2, 0, 4, 4), (3, 0, 2, 2), {}, id="no input channels")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def make_inputs(x_shape, weight_shape, options):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=s) for s in (x_shape, weight_shape, weight_shape[0]))
    dy = rng.normal(size=conv2d_forward(x, weight, bias, **options).shape)
    return x, weight, bias, dy


@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), [*CASES, NO_INPUT_CHANNELS])
def test_backward_is_the_derivative(x_shape, weight_shape, options):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape, options)
    expected = (
        numerical_gradient(lambda x: conv2d_forward(x, weight, bias, **options), x, dy),
        numerical_gradient(lambda weight: conv2d_forward(x, weight, bias, **options), weight, dy),
        numerical_gradient(lambda bias: conv2d_forward(x, weight, bias, **options), bias, dy),
    )
    for actual, gradient in zip(conv2d_backward(dy, x, weight, **options), expected, strict=True):
        np.testing.assert_allclose(actual, gradient, rtol=0, atol=1e-7, strict=True)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("x_shape", "weight_shape", "options"), CASES)
def test_agrees_with_torch(torch, x_shape, weight_shape, options):
    x, weight, bias, dy = make_inputs(x_shape, weight_shape, options)
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y_torch = torch.nn.functional.conv2d(*inputs, **options)
    y_torch.backward(torch.tensor(dy))

    y = conv2d_forward(x, weight, bias, **options)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=0, atol=1e-12, strict=True)
    for actual, tensor in zip(conv2d_backward(dy, x, weight, **options), inputs, strict=True):
        np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-12, strict=True)


def test_without_bias():
    x, weight, bias, _ = make_inputs((1, 2, 4, 4), (3, 2, 3, 3), {})
    with_bias = conv2d_forward(x, weight, bias)
    np.testing.assert_allclose(conv2d_forward(x, weight) + bias[:, None, None], with_bias)


def test_output_mask():
    x, weight, _, dy = make_inputs((1, 2, 4, 4), (3, 2, 3, 3), {})
    dx, dweight, dbias = conv2d_backward(dy, x, weight, output_mask=(False, True, False))
    assert dx is None and dweight.shape == weight.shape and dbias is None


def test_same_padding_needs_stride_1():
    with pytest.raises(ValueError, match="padding='same' needs stride 1"):
        conv2d_forward(np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3)), stride=2, padding="same")


def test_any_dtype_and_layout_gives_float64():
    x = np.arange(32).reshape(4, 4, 2).astype(np.float32).T[..., ::-1]
    weight = np.ones((1, 2, 2, 2), np.float16)
    y = conv2d_forward(x, weight)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, conv2d_forward(x.astype(np.float64).copy(), weight))
