"""bfloat16 and float16 through every op: stored in 16 bits, computed in float32, rounded once."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.cuda import CUDA
from tests.samples import SAMPLES
from tests.testing import (
    HALF_DTYPES,
    LENGTHS,
    Guarded,
    assert_close,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    is_half,
    layouts,
    random,
    to_torch,
    widened,
)

each_op = pytest.mark.parametrize("op", sorted(SAMPLES))


each_op_in_blocks = pytest.mark.parametrize(
    ("op", "shape", "dim"),
    [
        ("gelu", (33000,), ()),  # three blocks
        ("softmax", (300, 150), (1,)),  # three blocks of rows
        ("softmax", (3, 20011), (1,)),  # rows longer than a block
        ("log_softmax", (5, 19, 401), (1,)),  # columns, two slices a block
        ("log_softmax", (40011,), (0,)),  # a single slice
    ],
)


def every_value(half):
    return np.arange(1 << 16, dtype=np.uint16).view(half)


def is_nan(x):
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of signalling ones
        return np.isnan(x.astype(np.float64))


def bits(x):
    return np.asarray(x).view(np.uint16)


# --- what happens to a single number


def test_widening_is_exact(isa, half):
    x = every_value(half)
    y = fastdl.leaky_relu(x, 1.0)  # every number times 1
    nan = is_nan(x)
    np.testing.assert_array_equal(bits(y)[~nan], bits(x)[~nan])
    assert is_nan(y)[nan].all()


@pytest.mark.parametrize(
    "factor",
    [
        1 / 3,
        1 + 2**-8,  # ties of bfloat16
        1 + 2**-11,  # ties of float16
        2**-10,  # into the denormals
        2**-110,
        3e3,  # over the largest number
        3e38,
    ],
)
def test_narrowing_is_to_nearest_even(isa, half, factor):
    x = every_value(half)
    y = fastdl.leaky_relu(-np.abs(x), factor)
    with np.errstate(all="ignore"):
        expected = (-np.abs(x).astype(np.float32) * np.float32(factor)).astype(half)
    nan = is_nan(expected)
    np.testing.assert_array_equal(bits(y)[~nan], bits(expected)[~nan])
    assert is_nan(y)[nan].all()


@pytest.mark.parametrize("length", [*LENGTHS, 200003])
def test_every_length(isa, half, length):
    x = random(length, half)
    out = Guarded((length,), half)
    assert_same_bits(fastdl.leaky_relu(x, 1.0, out=out.array), x)
    out.check()


@each_op_in_blocks
def test_blocks(isa, half, op, shape, dim):
    """Slices in blocks: the same bits as widened as a whole."""
    x, dy = random(shape, half), random(shape, half, seed=1)
    wide = widened([x, dy], np.float32)
    forward, backward = getattr(fastdl, op), getattr(fastdl, f"{op}_backward")
    assert_same_bits(forward(x, *dim), forward(wide[0], *dim).astype(half))
    assert_same_bits(backward(dy, x, *dim), backward(wide[1], wide[0], *dim).astype(half))
    assert_same_bits_for_any_threads(lambda: (forward(x, *dim), backward(dy, x, *dim)))


# --- every op


@each_op
def test_one_rounding_away_from_float64(isa, half, op, monkeypatch):
    """Each native function the op and its gradient call, on the arguments it is called with."""
    if isa == CUDA and op == "scaled_dot_product_attention":
        pytest.skip("a GPU rounds the weights too: test_scaled_dot_product_attention_half.py")
    called = []

    def checked(name, function):
        def call(*args):
            wide = widened(args)
            expected, result = function(*wide), function(*args)
            assert_results(result, expected)
            for array, changed in zip(args, wide, strict=True):
                if is_half(array):
                    assert_close(array, changed)
            called.append(name)
            return result

        return call

    for name in dir(_core):
        if name.endswith(("_forward", "_backward", "_saved", "_codes")) or name in SAMPLES:
            monkeypatch.setattr(_core, name, checked(name, getattr(_core, name)))
    args, kwargs = SAMPLES[op](half)
    y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
    assert y.dtype == half
    pullback(np.asarray(np.cos(y), half))
    assert len(called) == 2


def assert_results(results, expected):
    if not isinstance(results, tuple):
        results, expected = (results,), (expected,)
    for result, wide in zip(results, expected, strict=True):
        if not isinstance(result, np.ndarray) or result.dtype.kind in "iu":
            np.testing.assert_equal(result, wide)
        elif is_half(result):
            assert_close(result, wide)
        else:  # the mean of normal numbers cancels
            assert_close(result, wide, scale=max(1.0, np.abs(wide).max()))


@each_op
def test_the_oracle_takes_16_bit_arrays(half, op):
    args, kwargs = SAMPLES[op](half)
    expected = getattr(reference, f"{op}_forward")(*args, **kwargs)
    args, kwargs = SAMPLES[op](half)  # batch_norm has changed its running statistics
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert_close(getattr(fastdl, op)(*args, **kwargs), expected)


@each_op
def test_at_most_twice_the_error_of_torch(torch, half, op):
    args, kwargs = SAMPLES[op](half)
    y, pullback = fastdl.vjp(getattr(fastdl, op), *args, **kwargs)
    dy = np.asarray(np.cos(y), half)
    ours = (y, *pullback(dy))

    args, kwargs = SAMPLES[op](half)
    tensors = [to_torch(torch, a) for a in args]
    arrays = [t for t in tensors if isinstance(t, torch.Tensor)]
    differentiable = [g is not None for g in ours[1:]]
    for tensor, wanted in zip(arrays, differentiable, strict=True):
        tensor.requires_grad_(wanted)
    function = getattr(torch.nn.functional, op, None) or getattr(torch, op)
    theirs = function(*tensors, **kwargs)
    theirs.backward(to_torch(torch, dy))
    theirs = (theirs, *(t.grad for t in arrays))

    wide = widened(SAMPLES[op](half).args)
    exact, pullback = fastdl.vjp(getattr(fastdl, op), *wide, **kwargs)
    exact = (exact, *pullback(widened(dy)))
    for our, their, true in zip(ours, theirs, exact, strict=True):
        if our is not None:
            error = np.abs(our.astype(np.float64) - true).max()
            torch_error = np.abs(their.detach().double().numpy() - true).max()
            assert error <= 2 * torch_error + 8 * np.finfo(np.float32).eps * np.abs(true).max()


# --- dtypes that meet


def test_normalisation_with_float32_parameters(isa, half):
    """As in torch: all parameters and running statistics may be float32 beside a 16-bit x."""
    x, dy = random((6, 5, 7), half), random((6, 5, 7), half, seed=1)
    weight, bias, mean, var = (np.abs(random(5, np.float32, seed=s)) for s in (2, 3, 4, 5))
    wide = [x.astype(np.float32), mean.copy(), var.copy(), weight, bias]
    expected, wide_pullback = fastdl.vjp(fastdl.batch_norm, *wide, training=True)
    y, pullback = fastdl.vjp(fastdl.batch_norm, x, mean, var, weight, bias, training=True)
    assert_same_bits(y, expected.astype(half))
    assert_same_bits([mean, var], wide[1:3])
    dx, _, _, dweight, dbias = pullback(dy)
    wide_dx, _, _, *wide_parameters = wide_pullback(dy.astype(np.float32))
    assert_same_bits(dx, wide_dx.astype(half))
    assert_same_bits([dweight, dbias], wide_parameters)

    weight, bias = (random(7, np.float32, seed=s) for s in (2, 3))
    expected, wide_pullback = fastdl.vjp(fastdl.layer_norm, x.astype(np.float32), 7, weight, bias)
    y, pullback = fastdl.vjp(fastdl.layer_norm, x, 7, weight, bias)
    assert_same_bits(y, expected.astype(half))
    dx, *parameters = pullback(dy)
    wide_dx, *wide_parameters = wide_pullback(dy.astype(np.float32))
    assert_same_bits(dx, wide_dx.astype(half))
    assert_same_bits(parameters, wide_parameters)


def test_attention_with_a_float32_mask(half):
    query, mask = random((2, 9, 8), half), random((9, 9), np.float32, seed=1)
    wide = query.astype(np.float32)
    expected, wide_pullback = fastdl.vjp(
        fastdl.scaled_dot_product_attention, wide, wide, wide, mask
    )
    y, pullback = fastdl.vjp(fastdl.scaled_dot_product_attention, query, query, query, mask)
    assert_same_bits(y, expected.astype(half))
    dmask = pullback(np.ones_like(y))[3]
    assert dmask.dtype == np.float32
    # the gradient starts from the rounded y
    assert_close(dmask, wide_pullback(np.ones_like(wide))[3], factor=0.01 / 1e-6)


def test_statistics_are_float32(half):
    x = random((4, 5, 6), half)
    for _, *statistics in (
        fastdl.batch_norm_forward(x, None, None, training=True),
        fastdl.layer_norm_forward(x, 6),
        fastdl.scaled_dot_product_attention_forward(x, x, x)[:2],
    ):
        assert all(s.dtype == np.float32 for s in statistics)


def test_running_statistics_keep_their_dtype(half):
    x, mean, var = random((4, 5), half), np.zeros(5, half), np.ones(5, half)
    wide_mean, wide_var = np.zeros(5, np.float32), np.ones(5, np.float32)
    fastdl.batch_norm(x, mean, var, training=True)
    fastdl.batch_norm(x.astype(np.float32), wide_mean, wide_var, training=True)
    assert_same_bits([mean, var], [wide_mean.astype(half), wide_var.astype(half)])


@each_op
def test_other_mixtures_are_refused_by_name(op, half):
    args, kwargs = SAMPLES[op](half)
    halves = [i for i, a in enumerate(args) if is_half(a)]
    if len(halves) == 1:
        return
    other = next(t for t in HALF_DTYPES if t != half)
    for i in halves:
        for dtype in (other, np.float64, np.float32):
            mixed = [*args[:i], args[i].astype(dtype), *args[i + 1 :]]
            if dtype == np.float32 and ((op == "layer_norm" and i == 2) or i == 3):
                continue  # the only parameter of the sample, or the mask of attention
            with pytest.raises(TypeError, match=rf"\[{op}\] .*{np.dtype(half).name}"):
                getattr(fastdl, op)(*mixed, **kwargs)


def test_other_dtypes_of_ml_dtypes_are_refused():
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        with pytest.raises(TypeError, match=r"\[relu\] x must be a float16, bfloat16"):
            fastdl.relu(np.zeros(3, dtype))


# --- arrays of the caller


def test_out_and_inplace(isa, half):
    x = random((5, 19), half)
    expected = fastdl.relu(x)
    out = Guarded(x.shape, half)
    assert fastdl.relu(x, out=out.array) is out.array
    out.check()
    assert_same_bits(out.array, expected)
    for array in layouts(x).values():
        if array.flags.writeable:
            assert fastdl.relu(array, inplace=True) is array
            assert_same_bits(array.astype(half), expected)
    strided = np.zeros((19, 5), half).T
    assert_same_bits(fastdl.relu(x, out=strided), expected)


def test_wrong_out(half):
    x, name = random((5, 19), half), np.dtype(half).name
    for out, array in ((np.zeros((5, 19), np.float32), x), (x, x.astype(np.float32))):
        before = out.copy()
        wanted = "float32" if array is not x else name
        with pytest.raises(
            TypeError, match=rf"\[relu\] out must be {wanted}, got {out.dtype.name}"
        ):
            fastdl.relu(array, out=out)
        assert_same_bits(out, before)
    with pytest.raises(ValueError, match="out shares memory with x"):
        fastdl.relu(x, out=x)


def test_nothing_is_written_by_a_call_that_raises(half):
    x, mean, var = random((4, 5), half), np.zeros(5, half), np.ones(6, half)
    with pytest.raises(ValueError, match="running_var must have shape"):
        fastdl.batch_norm(x, mean, var, training=True)
    assert_same_bits([mean, var], [np.zeros(5, half), np.ones(6, half)])


# --- what is told, and what is needed


def test_explain_tells_of_the_widening(half):
    x = random((8, 1, 100), half)
    found = fastdl.explain("avg_pool2d", x, (1, 1))
    assert found.reason == f"{np.dtype(half).name} is widened to float32"
    assert found.bytes == 2 * x.nbytes
    found = fastdl.explain("relu", x)  # block by block
    assert (found.reason, found.bytes) == ("", 2 * x.nbytes)


def test_ml_dtypes_is_optional():
    code = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, fastdl
assert fastdl.relu(np.ones(3, np.float16)).dtype == np.float16
try:
    fastdl.relu(np.zeros(3, "V2"))
except TypeError as error:
    assert "must be a float16, bfloat16" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
