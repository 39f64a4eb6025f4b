"""Products on AMX's tiles, whose numbers are sums of bfloat16: fastdl.get_isa() == "amx"."""

import ml_dtypes
import numpy as np
import pytest

import fastdl
from tests.testing import (
    ACTIVATIONS,
    HALF_DTYPES,
    assert_kernel,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    half_ulp,
    random,
    running_isa,
    widened,
)

pytestmark = pytest.mark.skipif("amx" not in fastdl.supported_isas(), reason="needs AMX")
TILES = "gemm, products of bfloat16 on tiles"
DTYPES = (np.float32, *HALF_DTYPES)


@pytest.fixture(autouse=True)
def tiles():
    with running_isa("amx"):
        yield


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    return request.param


def assert_product(y, x, other, *, add=0.0, eps=4.0):
    """Each element errs by few eps of the sum of what its terms are in size, and one rounding."""
    exact_x, exact_other = widened(x), widened(other)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = exact_x @ exact_other + add
        size = np.abs(exact_x) @ np.abs(exact_other) + np.abs(add)
        rounded = widened(exact.astype(y.dtype))
    y_, finite = widened(y), np.isfinite(rounded)
    np.testing.assert_array_equal(y_[~finite], rounded[~finite])
    bound = eps * np.finfo(np.float32).eps * size + x.shape[-1] * 2.0**-149
    if y.dtype in HALF_DTYPES:
        bound = bound + half_ulp(np.where(finite, exact, 0), y.dtype)
    assert (np.abs(y_[finite] - exact[finite]) <= bound[finite]).all()


# Strips of 32, tiles of 16, 128 to 384 terms at a time, blocks of 512.
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(256, 256, 256), (257, 191, 255), (513, 95, 528), (300, 1100, 250), (161, 2500, 544)],
)
def test_products(dtype, m, k, n):
    x, other = random((m, k), dtype), random((k, n), dtype, seed=1)
    y = fastdl.matmul(x, other)
    assert_kernel(TILES)
    assert y.dtype == dtype
    assert_product(y, x, other)
    assert_product(fastdl.linear(x, np.ascontiguousarray(other.T)), x, other)
    assert_kernel(TILES)
    dx, dother = fastdl.matmul_backward(y, x, other)
    assert_kernel(TILES)
    assert_product(dx, y, other.T)
    assert_product(dother, x.T, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation_and_residual(dtype, activation):
    x, weight = random((270, 200), dtype), random((301, 200), dtype, seed=1)
    bias, residual = random(301, dtype, seed=2), random((270, 301), dtype, seed=3)
    y = fastdl.linear(x, weight, bias, activation=activation, residual=residual)
    assert_kernel(TILES)
    z = widened(x) @ widened(weight).T + widened(bias) + widened(residual)
    np.testing.assert_allclose(
        widened(y),
        ACTIVATIONS[activation](z),
        rtol=2e-6 + (dtype != np.float32) * 2 * float(ml_dtypes.finfo(dtype).eps),
        atol=1e-4,
    )


def test_batches(dtype):
    x, other = random((3, 1, 200, 190), dtype), random((2, 190, 230), dtype, seed=1)
    y = fastdl.matmul(x, other)
    assert_kernel(TILES)
    assert_product(y, x, other)
    dx, dother = fastdl.matmul_backward(y, x, other)  # summed over the batches
    terms = widened(y) @ widened(np.swapaxes(other, -1, -2))
    np.testing.assert_allclose(widened(dx), terms.sum(1, keepdims=True), rtol=0.02, atol=0.5)
    terms = widened(np.swapaxes(x, -1, -2)) @ widened(y)
    np.testing.assert_allclose(widened(dother), terms.sum(0), rtol=0.02, atol=0.5)


def test_few_outputs_of_many_terms(dtype):
    x, other = random((160, 9000), dtype), random((9000, 192), dtype, seed=1)
    y = fastdl.matmul(x, other)
    assert_kernel(TILES)
    assert_product(y, x, other)


@pytest.mark.parametrize("m", [200, 1030])
def test_same_bits_for_any_threads(dtype, m):
    x, other = random((m, 1500), dtype), random((1500, 260), dtype, seed=1)
    assert_same_bits_for_any_threads(lambda: fastdl.matmul(x, other))
    assert_kernel(TILES)


def test_errs_less_than_multiply_adds():
    x, other = random((512, 2000), np.float32), random((2000, 512), np.float32, seed=1)
    exact = widened(x) @ widened(other)
    on_tiles = fastdl.matmul(x, other)
    with running_isa("avx512"):
        in_vectors = fastdl.matmul(x, other)
    assert np.std(on_tiles - exact) < np.std(in_vectors - exact)


@pytest.mark.parametrize(
    ("scale_x", "scale_other"),
    [
        (1e-30, 1e-8),
        (1e-38, 1.0),
        (1e-44, 1e30),
        (3e37, 1e-30),
        (1e-20, 1e-20),
        (0.0, 1.0),
        (1e11, 1e11),
        (1e22, 1e4),  # sums too large for parts of bfloat16 are multiplied as they are
        (1e30, 1e6),
        (1e30, 1e-44),
    ],
)
def test_range(scale_x, scale_other):
    x = (random((200, 160)) * scale_x).astype(np.float32)
    other = (random((160, 200), seed=1) * scale_other).astype(np.float32)
    y = fastdl.matmul(x, other)
    assert_kernel(TILES)
    assert_product(y, x, other)
    x[1:] = random((199, 160), seed=2)  # some rows alone
    assert_product(fastdl.matmul(x, other), x, other)


def test_small_numbers_among_others():
    """As in gradients of gelu: what they add counts where nothing larger hides it."""
    x = random((200, 300), np.float32)
    other = random((300, 200), np.float32, seed=1)
    x[:, ::3] *= np.float32(1e-36)
    x[:, 1::3] *= np.float32(1e-43)
    other[2::3] = 0
    assert_product(fastdl.matmul(x, other), x, other)
    other[::3] = 0
    assert_product(fastdl.matmul(x, other), x, other)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
def test_every_nan(bits):
    x, other = random((200, 160), np.float32), random((160, 200), np.float32, seed=1)
    x.view(np.uint32)[3, 7] = bits
    y = fastdl.matmul(x, other)
    assert np.isnan(y[3]).all()
    assert np.isfinite(np.delete(y, 3, 0)).all()
    half = x.astype(np.float16)
    half.view(np.uint16)[3, 7] = bits >> 16 | 0x7C01
    assert np.isnan(fastdl.matmul(half, other.astype(np.float16))[3]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 65504.0])
def test_special_values(dtype, value):
    x, other = random((240, 230), dtype), random((230, 250), dtype, seed=1)
    plain = fastdl.matmul(x, other)
    x[3, 7] = value
    y = fastdl.matmul(x, other)
    assert_kernel(TILES)
    assert_product(y, x, other)
    assert_same_bits(np.delete(y, 3, 0)[31:], np.delete(plain, 3, 0)[31:])
    other[7, 5] = value
    other[8, 5] = -value
    assert_product(fastdl.matmul(x, other), x, other)


def test_denormals_of_bfloat16_count_as_zero():
    x = np.full((200, 160), 2.0**-130, ml_dtypes.bfloat16)
    other = np.ones((160, 200), ml_dtypes.bfloat16)
    assert (fastdl.matmul(x, other) == 0).all()
