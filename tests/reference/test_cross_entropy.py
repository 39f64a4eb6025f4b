import numpy as np
import pytest

from fastdl.reference import cross_entropy_backward, cross_entropy_forward
from tests.gradcheck import numerical_gradient

SHAPES = [
    pytest.param((3,), id="no batch"),
    pytest.param((5, 3), id="batch"),
    pytest.param((2, 3, 4), id="one extra dim"),
    pytest.param((2, 3, 2, 1), id="two extra dims"),
    pytest.param((4, 1), id="one class"),
]
OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"weight": True}, id="weight"),
    pytest.param({"label_smoothing": 0.3}, id="smoothing"),
    pytest.param({"weight": True, "label_smoothing": 1.0}, id="weight and full smoothing"),
    pytest.param({"weight": True, "label_smoothing": 0.3}, id="weight and smoothing"),
]
TARGETS = ["indices", "indices, some ignored", "probabilities"]
REDUCTIONS = ["none", "mean", "sum"]


def sample(shape, target_kind, options):
    rng = np.random.default_rng(0)
    class_dim = 0 if len(shape) == 1 else 1
    classes = shape[class_dim]
    x = rng.normal(size=shape)
    options = dict(options)
    if "weight" in options:
        options["weight"] = rng.uniform(0.5, 2, size=classes)
    if target_kind == "probabilities":
        target = rng.dirichlet(np.ones(classes), size=shape[:class_dim] + shape[class_dim + 1 :])
        return x, np.moveaxis(target, -1, class_dim), options
    if target_kind == "indices, some ignored":
        options["ignore_index"] = 0
    target = np.asarray(rng.integers(0, classes, size=shape[:class_dim] + shape[class_dim + 1 :]))
    target.flat[-1] = classes - 1  # at least one sample is kept
    return x, target, options


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target_kind", TARGETS)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_backward_is_the_derivative(shape, target_kind, options, reduction):
    x, target, options = sample(shape, target_kind, options)
    options["reduction"] = reduction
    dy = np.random.default_rng(1).normal(size=cross_entropy_forward(x, target, **options).shape)
    dx, dtarget = cross_entropy_backward(dy, x, target, **options)

    expected = numerical_gradient(lambda x: cross_entropy_forward(x, target, **options), x, dy)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-8, strict=True)
    if target_kind != "probabilities":
        assert dtarget is None
        return
    expected = numerical_gradient(lambda t: cross_entropy_forward(x, t, **options), target, dy)
    np.testing.assert_allclose(dtarget, expected, rtol=0, atol=1e-8, strict=True)


def check_against_torch(torch, x, target, weight=None, **options):
    x_torch = torch.tensor(x, requires_grad=True)
    target_torch = torch.tensor(target, requires_grad=target.dtype == np.float64)
    weight_torch = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    y_torch = torch.nn.functional.cross_entropy(
        x_torch, target_torch, weight=weight_torch, **options
    )
    dy = np.random.default_rng(1).normal(size=y_torch.shape)
    y_torch.backward(torch.tensor(dy))

    y = cross_entropy_forward(x, target, weight, **options)
    np.testing.assert_allclose(y, y_torch.detach(), rtol=1e-12, strict=True)
    dx, dtarget = cross_entropy_backward(dy, x, target, weight, **options)
    np.testing.assert_allclose(dx, x_torch.grad, rtol=1e-12, atol=1e-14, strict=True)
    if target_torch.requires_grad:
        np.testing.assert_allclose(dtarget, target_torch.grad, rtol=1e-12, strict=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("target_kind", TARGETS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_torch(torch, shape, target_kind, options, reduction):
    x, target, options = sample(shape, target_kind, options)
    check_against_torch(torch, x, target, **options, reduction=reduction)


INF_ROW = np.array([[-np.inf, 0.0, 1.0]])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3], ids=["plain", "smoothing"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("x", "target", "weight"),
    [
        pytest.param(np.ones((2, 3)), np.array([-100, -100]), None, id="all ignored"),
        pytest.param(np.ones(3), np.array(-100), None, id="ignored without batch"),
        pytest.param(np.ones((0, 3)), np.zeros(0, np.int64), None, id="empty batch"),
        pytest.param(np.ones((0, 3)), np.zeros((0, 3)), None, id="empty batch of probabilities"),
        pytest.param(np.ones((2, 3, 0)), np.zeros((2, 0), np.int64), None, id="empty extra dim"),
        pytest.param(np.ones((2, 0)), np.ones((2, 0)), None, id="no classes, probabilities"),
        pytest.param(INF_ROW, np.array([0]), None, id="-inf chosen"),
        pytest.param(INF_ROW, np.array([2]), None, id="-inf not chosen"),
        pytest.param(INF_ROW, np.array([[0.0, 0.5, 0.5]]), None, id="probability 0 at -inf"),
        pytest.param(-INF_ROW, np.array([1]), None, id="+inf"),
        pytest.param(INF_ROW * np.nan, np.array([1]), None, id="NaN"),
    ],
)
def test_edge_cases_are_those_of_torch(torch, x, target, weight, reduction, label_smoothing):
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    check_against_torch(torch, x, target, weight, **options)


def test_output_mask():
    x, target = np.zeros((2, 3)), np.full((2, 3), 1 / 3)
    dx, dtarget = cross_entropy_backward(1.0, x, target, output_mask=(False, True))
    assert dx is None and dtarget.shape == (2, 3)
    dx, dtarget = cross_entropy_backward(1.0, x, target, output_mask=(True, False))
    assert dx.shape == (2, 3) and dtarget is None


@pytest.mark.parametrize("bad", [3, -1])
def test_class_out_of_range_raises(bad):
    with pytest.raises(ValueError, match=r"class outside 0\.\.2"):
        cross_entropy_forward(np.zeros((2, 3)), np.array([0, bad]))
