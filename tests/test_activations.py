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

ACTIVATIONS = [
    pytest.param("relu", {}, id="relu"),
    pytest.param("relu6", {}, id="relu6"),
    pytest.param("leaky_relu", {}, id="leaky_relu"),
    pytest.param("leaky_relu", {"negative_slope": -1.5}, id="leaky_relu rising"),
    pytest.param("elu", {}, id="elu"),
    pytest.param("elu", {"alpha": -2.0}, id="elu negative alpha"),
    pytest.param("sigmoid", {}, id="sigmoid"),
    pytest.param("tanh", {}, id="tanh"),
    pytest.param("silu", {}, id="silu"),
    pytest.param("gelu", {}, id="gelu"),
    pytest.param("gelu", {"approximate": "tanh"}, id="gelu tanh"),
]
NAMES = ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu")
# those that torch.nn.functional has in place
INPLACE = ("relu", "relu6", "leaky_relu", "elu", "silu")
SAVES_Y = ("sigmoid", "tanh")  # their backward takes the result

# 0, where exp turns denormal or 0 (-87, -104; -708, -746), where it overflows (89; 710), where tanh
# is 1 (10; 20), where relu6 ends, denormals (of both), and what squares or cubes beyond the range
MAGNITUDES = (
    0.0,
    1e-310,
    1e-45,
    1e-40,
    6,
    10,
    20,
    38,
    87.5,
    89,
    104,
    709,
    746,
    1e4,
    1e20,
    2e38,
    np.inf,
)


def forward(op, x, **kwargs):
    with np.errstate(all="ignore"):
        return getattr(reference, f"{op}_forward")(x, **kwargs)


def backward(op, dy, x, **kwargs):
    with np.errstate(all="ignore"):
        saved = forward(op, x) if op in SAVES_Y else x
        return getattr(reference, f"{op}_backward")(dy, saved, **kwargs)


def run(op, dy, x, **kwargs):
    y, pullback = fastdl.vjp(getattr(fastdl, op), x, **kwargs)
    return y, pullback(dy)[0]


@pytest.mark.parametrize("n", [*LENGTHS, 40009])  # the last in three blocks
@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_forward_and_backward(isa, dtype, op, kwargs, n):
    x, dy = 3 * random(n, dtype), random(n, dtype, seed=1)
    y, dx = run(op, dy, x, **kwargs)
    assert y.dtype == dx.dtype == dtype
    assert_close(y, forward(op, x, **kwargs))
    # sigmoid and tanh: the rounding of y is as large as 1 - y at its smallest
    scale = float(np.max(np.abs(dy), initial=0.0)) if op in SAVES_Y else None
    assert_close(dx, backward(op, dy, x, **kwargs), scale=scale)


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("op", NAMES)
def test_shapes(op, shape):
    x = random(shape)
    y, dx = run(op, np.ones(shape), x)
    assert_close(y, forward(op, x))
    assert_close(dx, backward(op, np.ones(shape), x), scale=1)


@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_against_torch(torch, dtype, op, kwargs):
    x, dy = 3 * random((3, 17, 19), dtype), random((3, 17, 19), dtype, seed=1)
    xt = torch.tensor(x, requires_grad=True)
    yt = getattr(torch.nn.functional, op)(xt, **kwargs)
    yt.backward(torch.tensor(dy))
    y, dx = run(op, dy, x, **kwargs)
    assert_close(y, yt.detach().numpy(), factor=2)  # both have errors
    assert_close(dx, xt.grad.numpy(), factor=2)


@pytest.mark.parametrize("value", [np.nan, *MAGNITUDES, *(-m for m in MAGNITUDES)])
@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_special_values(isa, dtype, op, kwargs, value):
    x = np.full(37, value, dtype)  # in the body and in the tail
    y, dx = run(op, np.ones_like(x), x, **kwargs)
    # exp is rounded to a denormal before it meets x; gelu (and its reference) round its exponent,
    # which is x^2 / 2, or with tanh 2 u
    scale = max(1.0, float(np.abs(x[0]))) * float(np.finfo(dtype).tiny)
    scale = scale if np.isfinite(scale) else 0.0
    size = abs(float(x[0]))
    exponent = 1.6 * size + 0.0714 * size**3 if kwargs.get("approximate") else size**2 / 2
    factor = 1 + exponent / 4 if op == "gelu" and size < 40 else 1.0
    for actual, expected in (
        (y, forward(op, x, **kwargs)),
        (dx, backward(op, np.ones_like(x), x, **kwargs)),
    ):
        own = np.abs(expected[0]) if np.isfinite(expected[0]) else 0.0
        if actual is dx and op in SAVES_Y:
            own = 1.0  # as above
        assert_close(actual, expected, scale=max(scale, own), factor=factor)
    if not np.isnan(y[0]):
        np.testing.assert_array_equal(np.signbit(y), np.signbit(forward(op, x, **kwargs)))


@pytest.mark.parametrize("limit", [2, 1e-3, 1e-30])
@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_relative_accuracy(isa, dtype, op, kwargs, limit):
    x = np.linspace(-limit, limit, 4001, dtype=dtype)
    y = getattr(fastdl, op)(x, **kwargs)
    bound = 6 if op == "gelu" else 5  # eps; gelu: 4 + x^2 / 2
    np.testing.assert_allclose(y, forward(op, x, **kwargs), rtol=bound * np.finfo(dtype).eps)


def test_tanh_ends_at_one(isa, dtype):
    x = np.linspace(0, 40, 40001, dtype=dtype)
    y = fastdl.tanh(x)
    assert np.max(y) == 1  # never beyond: log(1 - y^2) would be NaN
    np.testing.assert_array_equal(y[x >= 20], 1)
    np.testing.assert_array_equal(fastdl.tanh(-x[x >= 20]), -1)


@pytest.mark.parametrize("op", NAMES)
def test_any_layout(op, dtype):
    x, dy = random((5, 6, 7), dtype), random((5, 6, 7), dtype, seed=1)
    expected = run(op, dy, x)
    for array, gradient in zip(layouts(x).values(), layouts(dy).values(), strict=True):
        assert_same_bits(run(op, gradient, array), expected)
    repeated = broadcast_of(x)
    assert_same_bits(getattr(fastdl, op)(repeated), getattr(fastdl, op)(repeated.copy()))


@pytest.mark.parametrize(("op", "kwargs"), ACTIVATIONS)
def test_same_bits_for_any_threads(isa, dtype, op, kwargs):
    x, dy = random(100003, dtype), random(100003, dtype, seed=1)
    assert_same_bits_for_any_threads(lambda: run(op, dy, x, **kwargs))


def test_results_past_the_caches(isa, dtype):
    # beyond 16 MB each; vectors are stored from the first aligned element on
    n = (16 << 20) // np.dtype(dtype).itemsize + 5
    x = np.resize(random(10007, dtype), n)
    out = np.full(n + 2, 777, dtype)
    fastdl.relu(x, out=out[1:-1])
    np.testing.assert_array_equal(out, np.pad(np.maximum(x, 0), 1, constant_values=777))
    np.testing.assert_array_equal(fastdl.relu_backward(x, x), np.maximum(x, 0))


@pytest.mark.parametrize("op", NAMES)
def test_out(isa, dtype, op):
    x, f = random(37, dtype), getattr(fastdl, op)
    guarded = Guarded(x.shape, dtype)
    assert f(x, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, f(x))
    strided = np.zeros((37, 2), dtype)[:, 0]
    assert_same_bits(f(x, out=strided), f(x))


@pytest.mark.parametrize("op", INPLACE)
def test_inplace(isa, dtype, op):
    x, f = random((5, 37), dtype), getattr(fastdl, op)
    expected = f(x)
    for name, array in layouts(x).items():
        if name == "read-only":
            with pytest.raises(ValueError, match="x is read-only"):
                f(array, inplace=True)
        else:
            assert f(array, inplace=True) is array
            np.testing.assert_array_equal(array, expected)
    with pytest.raises(ValueError, match="out makes no sense with inplace"):
        f(x, inplace=True, out=np.empty_like(x))
    with pytest.raises(TypeError, match="x must be a NumPy array, got float64"):
        f(np.float64(1.0), inplace=True)  # nothing to write into
    with pytest.raises(TypeError, match="cannot be differentiated with inplace"):
        fastdl.vjp(f, x, inplace=True)
    parameters = [0.5] if op in ("leaky_relu", "elu") else []
    with pytest.raises(TypeError, match="cannot be differentiated with inplace"):
        fastdl.vjp(f, x, *parameters, True)
    assert_same_bits(fastdl.vjp(f, x, *parameters, False)[0], f(x, *parameters))


@pytest.mark.parametrize("op", NAMES)
def test_errors(op):
    x = random((4, 5))
    f, f_backward = getattr(fastdl, op), getattr(fastdl, f"{op}_backward")
    assert_rejects_bad_arrays(f, x)
    assert_rejects_bad_arrays(lambda bad: f_backward(bad, x), x)
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
            f(x, out=out)
    with pytest.raises(ValueError, match=rf"\[{op}_backward\] dy must have shape"):
        f_backward(x[1:], x)
    with pytest.raises(TypeError, match=r"dy is float32, [xy] is float64"):
        f_backward(x.astype(np.float32), x)


def test_parameter_errors():
    x = random(5, np.float32)
    for f, name in ((fastdl.leaky_relu, "negative_slope"), (fastdl.elu, "alpha")):
        with pytest.raises(ValueError, match=f"{name} 1e\\+300 overflows float32"):
            f(x, 1e300)
        assert np.isfinite(f(x.astype(np.float64), 1e300)).all()
        assert np.isneginf(f(x, np.inf)[x < 0]).all()
    for bad in ("exact", "Tanh", ""):
        with pytest.raises(ValueError, match=f'approximate must be "none" or "tanh", got "{bad}"'):
            fastdl.gelu(x, bad)
        with pytest.raises(ValueError, match="approximate must be"):
            fastdl.gelu_backward(x, x, bad)
