import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    layouts,
    random,
    rng,
)

REDUCTIONS = ("none", "mean", "sum")
SHAPES = [
    (7,),  # no batch: the loss is a scalar
    (5, 1),
    (5, 7),
    (0, 4),  # no samples
    (3, 5, 0),
    (3, 5, 17),
    (2, 3, 4, 5),
    (9000, 5),  # several blocks
    (3, 2, 50, 60),
]


def inputs(shape, dtype):
    """(x, target, weight, dy without reduction); some samples are ignored."""
    classes = shape[0 if len(shape) == 1 else 1]
    target = np.asarray(rng(1).integers(0, classes, shape[: len(shape) > 1] + shape[2:]))
    if target.size > 1:
        target.flat[::3] = -100
    weight = rng(2).uniform(0.5, 2, classes).astype(dtype)
    return random(shape, dtype), target, weight, random(target.shape, dtype, seed=3)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, shape, weighted, reduction):
    x, target, weight, dy = inputs(shape, dtype)
    weight = weight if weighted else None
    loss = fastdl.nll_loss(x, target, weight, reduction=reduction)
    assert isinstance(loss, dtype) or (loss.dtype == dtype and loss.ndim)
    expected = reference.nll_loss_forward(x, target, weight, reduction=reduction)
    # the sum of losses of both signs cancels
    assert_close(loss, expected, scale=float(np.abs(np.nan_to_num(expected)).max(initial=1.0)))
    dy = dy[()] if reduction == "none" else dtype(0.7)
    dx = fastdl.nll_loss_backward(dy, x, target, weight, reduction=reduction)
    expected = reference.nll_loss_backward(dy, x, target, weight, reduction=reduction)
    assert_close(dx, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 4, 2)], ids=str)
def test_against_torch(torch, dtype, shape, reduction):
    x, target, weight, dy = inputs(shape, dtype)
    dy = dy[()] if reduction == "none" else dtype(0.7)
    xt = torch.tensor(x, requires_grad=True)
    yt = torch.nn.functional.nll_loss(
        xt, torch.tensor(target), torch.tensor(weight), reduction=reduction
    )
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(fastdl.nll_loss, x, target, weight, reduction=reduction)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    dx, *nothing = pullback(dy)
    assert nothing == [None, None]
    assert_close(dx, xt.grad.numpy(), factor=2)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("x", "target", "weight"),
    [
        ([[1.0, 1.0]], [-100], None),  # all ignored
        (np.ones((2, 0)), [-100, -100], None),  # no classes
        ([[-np.inf, 1.0, np.nan]], [0], None),
        ([[-np.inf, 1.0, np.nan]], [1], None),
        ([[-np.inf, 1.0, 2.0]], [0], [0.0, 1.0, 1.0]),  # 0 * -inf
        ([[1.0, 1.0]], [0], [0.0, 1.0]),  # the weights sum to 0
    ],
    ids=str,
)
def test_edge_cases_are_those_of_torch(torch, x, target, weight, reduction):
    x, target = np.array(x), np.array(target)
    weight = None if weight is None else np.array(weight)
    tensors = [None if a is None else torch.tensor(a) for a in (x, target, weight)]
    tensors[0].requires_grad = True
    yt = torch.nn.functional.nll_loss(*tensors, reduction=reduction)
    y, pullback = fastdl.vjp(fastdl.nll_loss, x, target, weight, reduction=reduction)
    np.testing.assert_array_equal(y, yt.detach().numpy())
    yt.backward(torch.ones_like(yt))
    np.testing.assert_array_equal(pullback(np.ones_like(y))[0], tensors[0].grad.numpy())


def test_ignore_index_may_be_a_class():
    x, target = random((4, 3)), np.array([0, 1, 2, 1])
    loss = fastdl.nll_loss(x, target, ignore_index=1)
    np.testing.assert_allclose(loss, -(x[0, 0] + x[2, 2]) / 2)


def test_one_target_without_batch():
    x = random(3)
    for reduction in REDUCTIONS:  # torch takes a target (1,) for ()
        assert fastdl.nll_loss(x, np.array([1]), reduction=reduction) == -x[1]


def test_any_layout(dtype):
    x, target, weight, _ = inputs((5, 6, 7), dtype)

    def run(x, target):
        y, pullback = fastdl.vjp(fastdl.nll_loss, x, target, weight)
        return y, pullback(dtype(1))[0]

    expected = run(x, target)
    for array in layouts(x).values():
        assert_same_bits(run(array, target), expected)
    for array in [*layouts(target).values(), target.astype(np.int16)]:
        assert_same_bits(run(x, array), expected)


@pytest.mark.parametrize("shape", [(100000, 4), (4, 3, 200, 200)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape):
    x, target, weight, _ = inputs(shape, dtype)

    def run():
        y, pullback = fastdl.vjp(fastdl.nll_loss, x, target, weight)
        return y, pullback(dtype(1))[0]

    assert_same_bits_for_any_threads(run)


def test_errors():
    x, target, weight, _ = inputs((4, 5), np.float64)
    f, backward = fastdl.nll_loss, fastdl.nll_loss_backward
    one = np.float64(1)
    assert_rejects_bad_arrays(lambda bad: f(bad, target), x)
    assert_rejects_bad_arrays(lambda bad: backward(one, bad, target), x)
    for bad in (5, -1, -101, 2**62):
        wrong = np.where(np.arange(4) == 3, bad, target)
        for call in (lambda w: f(x, w), lambda w: backward(one, x, w)):
            with pytest.raises(ValueError, match=rf"\] target holds class {bad}, expected 0 to 4"):
                call(wrong)
    for match, args, kwargs in [
        ("x must have at least 1 dimension", (x[0, 0], target[0]), {}),
        (r"target must have shape \(4,\), got \(3,\)", (x, target[1:]), {}),
        (r"target must have shape \(\), got \(4,\)", (x[0], target), {}),
        (r"weight must have shape \(5,\)", (x, target, weight[:1]), {}),
        ('reduction must be .*, got ""', (x, target), {"reduction": ""}),
    ]:
        with pytest.raises(ValueError, match=rf"\[nll_loss\] {match}"):
            f(*args, **kwargs)
        with pytest.raises(ValueError, match=rf"\[nll_loss_backward\] {match}"):
            backward(one, *args, **kwargs)
    with pytest.raises(TypeError, match="target must be an array of signed integers"):
        f(x, x)
    with pytest.raises(TypeError, match="weight is float32, x is float64"):
        f(x, target, weight.astype(np.float32))
    with pytest.raises(ValueError, match=r"dy must have shape \(\), got \(4,\)"):
        backward(np.ones(4), x, target)
    with pytest.raises(TypeError, match="dy is float32, x is float64"):
        backward(np.float32(1), x, target)
