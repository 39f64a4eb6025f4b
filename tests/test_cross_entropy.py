import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.cuda import has_cuda, on_cuda
from tests.testing import (
    LENGTHS,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
    rng,
)

ROWS, COLUMNS = "rows, lanes along the classes", "columns, lanes along the samples"
REDUCTIONS = ("none", "mean", "sum")
KINDS = ("indices", "probabilities")
SHAPES = [
    *[(3, n) for n in LENGTHS if n],
    *[(2, 5, n) for n in LENGTHS if n != 1],
    (7,),  # no batch: the loss is a scalar
    (0, 4),  # no samples
    (2, 33, 3, 4),
    (2, 9001),  # a row longer than a block
    (2, 300, 5),  # a column summed in two levels
    (2, 70001),  # a row that does not stay in the cache
    (3, 33, 300),  # columns copied in several parts, the last with a tail
    (2100, 1001),  # more than 8 MB
]
OPTIONS = [
    {},
    {"weight": True},
    {"label_smoothing": 0.3},
    {"weight": True, "label_smoothing": 0.3},
    {"weight": True, "label_smoothing": 1.0},
]


def inputs(shape, dtype, kind, *, weight=False, ignored=True, **options):
    """(x, target, weight, other options); some samples are ignored."""
    x = 3 * random(shape, dtype)
    class_dim = 0 if len(shape) == 1 else 1
    classes = shape[class_dim]
    samples = shape[:class_dim] + shape[class_dim + 1 :]
    if kind == "indices":
        target = np.asarray(rng(1).integers(0, classes, samples))
        if ignored and target.size > 1:
            target.flat[::3] = -100
    else:
        target = np.moveaxis(rng(1).dirichlet(np.ones(classes), samples), -1, class_dim)
        target = np.ascontiguousarray(target, dtype)
    weight = rng(2).uniform(0.5, 2, classes).astype(dtype) if weight else None
    return x, target, weight, options


def gradient_of(loss, dtype):
    return np.asarray(random(np.shape(loss), dtype, seed=3))[()]


def assert_close_to_reference(x, target, weight, options):
    loss = fastdl.cross_entropy(x, target, weight, **options)
    assert isinstance(loss, x.dtype.type) or (loss.dtype == x.dtype and loss.ndim)
    with np.errstate(all="ignore"):
        expected = reference.cross_entropy_forward(x, target, weight, **options)
    assert_close(loss, expected)
    dy = gradient_of(loss, x.dtype)
    grads = fastdl.cross_entropy_backward(dy, x, target, weight, **options)
    expected = reference.cross_entropy_backward(dy, x, target, weight, **options)
    dloss = np.abs(dy).max(initial=0.0) / (1 if "reduction" in options else max(target.size, 1))
    for actual, ref in zip(grads, expected, strict=True):
        assert (actual is None) == (ref is None)
        if ref is not None:  # dx is a difference of numbers up to dloss * weight
            assert_close(actual, ref, scale=max(dloss, np.abs(ref).max(initial=0.0)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, shape, kind):
    arguments = inputs(shape, dtype, kind, weight=True, label_smoothing=0.1)
    assert_close_to_reference(*arguments)
    assert fastdl._core.last_trace()["kernel"] == (ROWS if len(shape) < 3 else COLUMNS)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_too_long_to_be_copied(isa, kind):
    # float32 alone, as NumPy itself sums long columns one by one
    assert_close_to_reference(*inputs((2, 5000, 40), np.float32, kind))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9,), (4, 35), (3, 5, 21)], ids=str)
def test_options(dtype, shape, kind, options, reduction):
    assert_close_to_reference(*inputs(shape, dtype, kind, **options, reduction=reduction))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "values",
    [
        [np.nan, 1.0, 2.0],
        [np.inf, 1.0, 2.0],
        [-np.inf, 1.0, 2.0],
        [-np.inf, -np.inf, -np.inf],
        [1e4, -1e4, 0.0],
        [1.5e38, -1.5e38, 1e-45],
        [-0.0, 0.0, 0.0],
    ],
    ids=str,
)
def test_special_values(isa, dtype, values, columns, kind, label_smoothing):
    # 21 classes or samples: the special values lie in the vector body and in the tail
    x = np.tile(np.array(values, dtype), (5, 7))
    x = np.ascontiguousarray(x.T)[None] if columns else x
    target = np.array([0, 1, 2, 20, -100])[None] if columns else np.array([0, 1, 2, 20, -100])
    if kind == "probabilities":
        _, target, *_ = inputs(x.shape, dtype, kind)
    options = {"reduction": "none", "label_smoothing": label_smoothing}
    with np.errstate(all="ignore"):
        expected = reference.cross_entropy_forward(x, target, **options)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)  # log 1 is a difference
        assert_close(fastdl.cross_entropy(x, target, **options), expected, scale=scale)
        dy = np.ones_like(expected, dtype)
        grads = fastdl.cross_entropy_backward(dy, x, target, **options)
        expected = reference.cross_entropy_backward(dy, x, target, **options)
    for actual, ref in zip(grads, expected, strict=True):
        if ref is not None:
            assert_close(actual, ref)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(19,), (6, 19), (2, 5, 3, 4)], ids=str)
def test_against_torch(torch, dtype, shape, kind, reduction):
    x, target, weight, options = inputs(
        shape, dtype, kind, weight=True, label_smoothing=0.2, reduction=reduction
    )
    xt = torch.tensor(x, requires_grad=True)
    tt = torch.tensor(target, requires_grad=kind == "probabilities")
    yt = torch.nn.functional.cross_entropy(xt, tt, weight=torch.tensor(weight), **options)
    y, pullback = fastdl.vjp(fastdl.cross_entropy, x, target, weight, **options)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    dy = gradient_of(y, dtype)
    yt.backward(torch.tensor(dy))
    dx, dtarget, dweight = pullback(dy)
    assert_close(dx, xt.grad.numpy(), factor=2)
    assert dweight is None and (dtarget is None) == (kind == "indices")
    if dtarget is not None:
        assert_close(dtarget, tt.grad.numpy(), factor=2)


def test_edge_cases_are_those_of_torch(torch):
    for shape in [(0, 3), (2, 3, 0), (2, 0), (0, 0)]:
        x, samples = np.zeros(shape), shape[:1] + shape[2:]
        for target in (np.full(samples, -100), np.zeros(shape)):
            for reduction in REDUCTIONS:
                expected = torch.nn.functional.cross_entropy(
                    torch.tensor(x), torch.tensor(target), reduction=reduction
                )
                y, pullback = fastdl.vjp(fastdl.cross_entropy, x, target, reduction=reduction)
                np.testing.assert_array_equal(y, expected.numpy(), strict=False)
                assert pullback(np.ones_like(y))[0].shape == shape


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", ">i4", "u4", "i8", ">i8"])
def test_index_dtypes(dtype):
    x = random((3, 5))
    target = np.array([0, 4, 2], dtype)
    assert fastdl.cross_entropy(x, target) == fastdl.cross_entropy(x, target.astype(np.int64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)], ids=str)
def test_any_layout(dtype, shape, kind):
    x, target, weight, _ = inputs(shape, dtype, kind, weight=True)

    def run(x, target):
        y, pullback = fastdl.vjp(fastdl.cross_entropy, x, target, weight, reduction="sum")
        return y, *pullback(dtype(1))

    expected = run(x, target)
    for array in layouts(x).values():
        assert_same_bits(run(array, target), expected)
    for array in layouts(target).values():
        assert_same_bits(run(x, array), expected)
    assert_same_bits(run(broadcast_of(x), target), run(broadcast_of(x).copy(), target))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3000, 50), (10, 9, 70, 70)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, shape, kind):
    x, target, weight, options = inputs(shape, dtype, kind, weight=True, label_smoothing=0.1)

    def run():
        y, pullback = fastdl.vjp(fastdl.cross_entropy, x, target, weight, **options)
        return y, *pullback(dtype(1))

    assert_same_bits_for_any_threads(run)


def test_output_mask():
    x, target, _, _ = inputs((3, 5), np.float64, "probabilities")
    full = fastdl.cross_entropy_backward(np.float64(1), x, target)
    for mask in np.ndindex(2, 2):
        mask = tuple(map(bool, mask))
        got = fastdl.cross_entropy_backward(np.float64(1), x, target, output_mask=mask)
        assert_same_bits(got, [g if m else None for g, m in zip(full, mask, strict=True)])


def test_errors():
    x, target, weight, _ = inputs((4, 5), np.float64, "indices", weight=True, ignored=False)
    f, backward = fastdl.cross_entropy, fastdl.cross_entropy_backward
    one, q = np.float64(1), np.full((4, 5), 0.2)
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
        (r"target must have shape \(4,\)", (x, target[:, None]), {}),
        ("target with class probabilities must have shape", (x, q[:, :4]), {}),
        (r"weight must have shape \(5,\)", (x, target, weight[:1]), {}),
        ("label_smoothing must be between 0 and 1, got 1.5", (x, target), {"label_smoothing": 1.5}),
        ("label_smoothing must be", (x, target), {"label_smoothing": -0.1}),
        ("label_smoothing must be", (x, target), {"label_smoothing": np.nan}),
        ('reduction must be .*, got "max"', (x, target), {"reduction": "max"}),
        ("ignore_index is only for class indices", (x, q), {"ignore_index": 1}),
    ]:
        with pytest.raises(ValueError, match=rf"\[cross_entropy\] {match}"):
            f(*args, **kwargs)
        with pytest.raises(ValueError, match=rf"\[cross_entropy_backward\] {match}"):
            backward(one, *args, **kwargs)
    for match, args in [
        ("target is float32, x is float64", (x, q.astype(np.float32))),
        ("weight is float32, x is float64", (x, target, weight.astype(np.float32))),
        ("target must be an array of signed integers", (x, target > 1)),
        ("target must be a NumPy array", (x, [0, 1, 2, 3])),
    ]:
        with pytest.raises(TypeError, match=match):
            f(*args)
    with pytest.raises(ValueError, match=r"dy must have shape \(\), got \(4,\)"):
        backward(np.ones(4), x, target)
    with pytest.raises(ValueError, match=r"dy must have shape \(4,\), got \(\)"):
        backward(one, x, target, reduction="none")
    with pytest.raises(TypeError, match="dy is float32, x is float64"):
        backward(np.float32(1), x, target)


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
@pytest.mark.parametrize("op", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 5, 2)], ids=str)
@pytest.mark.parametrize("bad", [5, -1, -101, 2**62])
def test_class_out_of_range_is_nan_on_a_device(op, shape, bad):
    # where targets are not read back; under AddressSanitizer: nothing outside the arrays is read
    x, target, weight, _ = inputs(shape, np.float32, "indices", weight=True, ignored=False)
    target.flat[3] = bad
    ok = target != bad
    with on_cuda():
        for reduction in REDUCTIONS:
            loss, pullback = fastdl.vjp(getattr(fastdl, op), x, target, weight, reduction=reduction)
            dx = np.moveaxis(pullback(np.ones_like(loss))[0], 1, -1)
            if reduction == "none":
                assert np.isfinite(loss[ok]).all() and np.isnan(loss[~ok]).all()
            else:
                assert np.isnan(loss)
            if reduction != "mean":
                assert np.isfinite(dx[ok]).all()
            assert (np.isnan(dx[~ok]) | (dx[~ok] == 0)).all()
