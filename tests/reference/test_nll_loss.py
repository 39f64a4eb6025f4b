import numpy as np
import pytest

from fastdl.reference import nll_loss_backward, nll_loss_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((3,), id="no batch"),
    pytest.param((5, 3), id="batch"),
    pytest.param((2, 3, 4), id="one extra dim"),
    pytest.param((2, 3, 2, 3), id="two extra dims"),
    pytest.param((4, 1), id="one class"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"ignore_index": 0}, id="ignore a class"),
    pytest.param({"weight": True}, id="weight"),
    pytest.param({"weight": True, "ignore_index": 0}, id="weight and ignore a class"),
]
REDUCTIONS = ["none", "mean", "sum"]


def sample(shape, options):
    rng = np.random.default_rng(0)
    classes = shape[0] if len(shape) == 1 else shape[1]
    x = rng.normal(size=shape)
    target = np.asarray(rng.integers(0, classes, size=shape[:1] * (len(shape) > 1) + shape[2:]))
    target.flat[-1] = classes - 1  # at least one sample is kept
    weight = rng.uniform(0.5, 2, size=classes) if "weight" in options else None
    return x, target, {**options, "weight": weight}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_backward_is_the_derivative(shape, options, reduction):
    x, target, options = sample(shape, options)
    y = nll_loss_forward(x, target, **options, reduction=reduction)
    dy = np.random.default_rng(1).normal(size=y.shape)
    dx = nll_loss_backward(dy, x, target, **options, reduction=reduction)
    expected = numerical_gradient(
        lambda x: nll_loss_forward(x, target, **options, reduction=reduction), x, dy
    )
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-8, strict=True)


def check_against_torch(torch, x, target, weight=None, **options):
    x_torch = torch.tensor(x, requires_grad=True)
    weight_torch = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    y_torch = torch.nn.functional.nll_loss(
        x_torch, torch.tensor(target), weight=weight_torch, **options
    )
    dy = np.random.default_rng(1).normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y = nll_loss_forward(x, target, weight, **options)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=1e-12, strict=True)
    dx = nll_loss_backward(dy, x, target, weight, **options)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=1e-12, strict=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_torch(torch, shape, options, reduction):
    x, target, options = sample(shape, options)
    check_against_torch(torch, x, target, **options, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("x", "target", "weight"),
    [
        pytest.param(np.ones((2, 3)), [-100, -100], None, id="all ignored"),
        pytest.param(np.ones(3), -100, None, id="ignored without batch"),
        pytest.param(np.ones((0, 3)), [], None, id="empty batch"),
        pytest.param(np.ones((2, 3, 0)), [[], []], None, id="empty extra dim"),
        pytest.param(np.ones((2, 0)), [-100, -100], None, id="no classes"),
        pytest.param(np.array([[-np.inf, 1.0, np.nan]]), [0], None, id="-inf chosen"),
        pytest.param(np.array([[-np.inf, 1.0, np.nan]]), [1], None, id="-inf and NaN not chosen"),
        pytest.param(np.array([[-np.inf, 1.0, 2.0]]), [0], [0.0, 1.0, 1.0], id="0 * -inf"),
        pytest.param(np.ones((2, 3)), [0, 0], [0.0, 1.0, 1.0], id="weights sum to 0"),
    ],
)
def test_edge_cases_are_those_of_torch(torch, x, target, weight, reduction):
    check_against_torch(torch, x, np.array(target, np.int64), weight, reduction=reduction)


@pytest.mark.parametrize("bad", [3, -1])
def test_class_out_of_range_raises(bad):
    with pytest.raises(ValueError, match=r"class outside 0\.\.2"):
        nll_loss_forward(np.zeros((2, 3)), np.array([0, bad]))
    with pytest.raises(ValueError, match=r"class outside 0\.\.2"):
        nll_loss_backward(1.0, np.zeros((2, 3)), np.array([0, bad]))
