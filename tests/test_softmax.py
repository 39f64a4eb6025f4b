import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    LENGTHS,
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
)

OPS = ("softmax", "log_softmax")
SHAPES = [
    *[((3, n), 1) for n in LENGTHS],  # rows
    *[((2, 5, n), 1) for n in LENGTHS],  # columns
    ((7,), 0),
    ((), 0),  # torch takes a 0-d array as (1,)
    ((4, 0, 3), 1),  # nothing to sum over
    ((0, 4), 1),  # no rows
    ((2, 3, 4, 5), -3),
    ((2, 33000), 1),  # a row longer than a block
    ((600, 5), 0),  # a column summed in two levels
    ((2, 70001), 1),  # a row that does not stay in the cache
    ((3, 33, 300), 1),  # columns copied in several parts, the last with a tail
]
BEYOND_CACHE = [((2100, 1001), 1), ((3, 7, 100033), 1), ((3, 7, 100032), 1)]  # more than 8 MB


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_forward_and_backward(isa, dtype, op, shape, dim):
    x, dy = 5 * random(shape, dtype), random(shape, dtype, seed=1)
    y = getattr(fastdl, op)(x, dim)
    assert y.dtype == dtype
    y64 = getattr(reference, f"{op}_forward")(x, dim)
    assert_close(y, y64)
    dx = getattr(fastdl, f"{op}_backward")(dy, y, dim)
    # dy - sum(dy) cancels: the error scales with the sum of |dy|, not with what is left.
    scale = np.abs(dy).sum(dim).max() if dy.size else 0.0
    assert_close(dx, getattr(reference, f"{op}_backward")(dy, y64, dim), scale=scale)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("shape", "dim"), BEYOND_CACHE, ids=str)
def test_beyond_the_caches(isa, op, shape, dim):
    x, dy = 5 * random(shape, np.float32), random(shape, np.float32, seed=1)
    y = getattr(fastdl, op)(x, dim)
    assert_close(y, getattr(reference, f"{op}_forward")(x, dim))
    dx = getattr(fastdl, f"{op}_backward")(dy, y, dim)
    scale = np.abs(dy).sum(dim).max()
    assert_close(dx, getattr(reference, f"{op}_backward")(dy, y, dim), scale=scale)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_special_values_in_one_block_of_many(isa, dtype, op, value):
    x = random((2, 5000), dtype)
    x[0, :2000] = value
    x[1, 4000:] = value
    with np.errstate(all="ignore"):
        expected = getattr(reference, f"{op}_forward")(x, 1)
    assert_close(getattr(fastdl, op)(x, 1), expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("inner", [5, 40])
def test_long_column(isa, op, inner):
    # summed in three levels, too long to be copied; float32 alone, as NumPy sums them one by one
    x = random((10000, inner), np.float32)
    assert_close(getattr(fastdl, op)(x, 0), getattr(reference, f"{op}_forward")(x, 0))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dim", [1, 2])
def test_against_torch(torch, dtype, op, dim):
    x, dy = random((3, 17, 19), dtype), random((3, 17, 19), dtype, seed=1)
    xt = torch.tensor(x, requires_grad=True)
    yt = getattr(torch.nn.functional, op)(xt, dim)
    yt.backward(torch.tensor(dy))
    y, pullback = fastdl.vjp(getattr(fastdl, op), x, dim)
    assert_close(y, yt.detach().numpy())
    assert_close(pullback(dy)[0], xt.grad.numpy(), factor=2)  # both have errors


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dim", [0, 1])
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
def test_special_values(isa, dtype, op, dim, values):
    # 20 columns: the special slice lies in the vector body and in the tail
    x = np.tile(np.array(values, dtype), (20, 7))
    x = x.T.copy() if dim == 0 else x
    with np.errstate(all="ignore"):
        expected = getattr(reference, f"{op}_forward")(x, dim)
    assert_close(getattr(fastdl, op)(x, dim), expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dim", [0, 2])
def test_any_layout(op, dtype, dim):
    x = random((5, 6, 7), dtype)
    f = getattr(fastdl, op)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        assert_same_bits(f(array, dim), f(np.ascontiguousarray(array, dtype), dim))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape_dim", [((3000, 100), 1), ((50, 20, 100), 1)], ids=str)
def test_same_bits_for_any_threads(isa, dtype, op, shape_dim):
    shape, dim = shape_dim
    x, dy = random(shape, dtype), random(shape, dtype, seed=1)

    def run():
        y, pullback = fastdl.vjp(getattr(fastdl, op), x, dim)
        return (y, *pullback(dy))

    assert_same_bits_for_any_threads(run)


@pytest.mark.parametrize("op", OPS)
def test_out(isa, dtype, op):
    x = random((5, 19), dtype)
    f = getattr(fastdl, op)
    for dim in (0, 1):
        guarded = Guarded(x.shape, dtype)
        assert f(x, dim, out=guarded.array) is guarded.array
        guarded.check()
        assert_same_bits(guarded.array, f(x, dim))
    strided = np.zeros((19, 5), dtype).T
    assert_same_bits(f(x, 1, out=strided), f(x, 1))


@pytest.mark.parametrize("op", OPS)
def test_errors(op):
    x = random((4, 5))
    f, backward = getattr(fastdl, op), getattr(fastdl, f"{op}_backward")
    assert_rejects_bad_arrays(lambda bad: f(bad, 0), x)
    assert_rejects_bad_arrays(lambda bad: backward(bad, x, 0), x)
    for dim in (2, -3):
        with pytest.raises(ValueError, match=rf"\[{op}\] dim {dim} is out of range"):
            f(x, dim)
    read_only = np.zeros_like(x)
    read_only.flags.writeable = False
    for out, error in [
        (read_only, ValueError),
        (x, ValueError),  # overlaps
        (np.zeros((4, 6)), ValueError),
        (np.zeros((4, 5), np.float32), TypeError),
        ([[0.0] * 5] * 4, TypeError),
    ]:
        with pytest.raises(error, match=rf"\[{op}\] out "):
            f(x, 0, out=out)
    with pytest.raises(ValueError, match="dy must have shape"):
        backward(x[1:], x, 0)
    with pytest.raises(TypeError, match="dy is float32, y is float64"):
        backward(x.astype(np.float32), x, 0)


@pytest.mark.parametrize("op", OPS)
def test_implicit_dim_and_dtype(op):
    x = random((2, 3, 4), np.float32)
    f = getattr(fastdl, op)
    with pytest.warns(UserWarning, match="pass dim"):
        assert_same_bits(f(x), f(x, 0))
    assert_same_bits(f(x, 1, dtype=np.float64), f(x.astype(np.float64), 1))
    _, pullback = fastdl.vjp(f, x, 1, dtype=np.float64)
    assert pullback(np.ones((2, 3, 4)))[0].dtype == np.float32
