"""matmul and linear by the bfloat16 products of AVX512_BF16."""

import ml_dtypes
import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import Guarded, assert_same_bits_for_any_threads, random, widened

bfloat16 = ml_dtypes.bfloat16


@pytest.fixture(autouse=True)
def native():
    fastdl.matmul(random((2, 2), bfloat16), random((2, 2), bfloat16))
    if not fastdl._core.last_trace()["kernel"].startswith("gemm, products of bfloat16"):
        pytest.skip("this CPU, or the ISA in use, has no AVX512_BF16")


def assert_rounded(actual, exact, terms):
    """One rounding to bfloat16 of a sum that is as good as in float32."""
    assert actual.dtype == bfloat16
    actual = widened(actual)
    scale = max(np.abs(exact).max(initial=0), np.sqrt(terms))
    error = np.abs(actual - exact) - 2.0**-8 * np.abs(exact)
    assert error.max(initial=0) <= 16 * np.finfo(np.float32).eps * scale


@pytest.mark.parametrize(
    ("x_shape", "other_shape"),
    [
        *[((9, k), (k, 50)) for k in (0, 1, 2, 15, 16, 33, 1025)],  # odd: a 0 beside the last
        *[((m, 20), (20, n)) for m in (1, 8, 17) for n in (1, 48, 49)],
        ((4,), (4,)),
        ((5,), (5, 3)),
        ((3, 5), (5,)),
        ((2, 1, 3, 5), (3, 5, 4)),
        ((6, 2, 5, 7), (1, 2, 7, 3)),  # gradients summed over dimensions
        ((1, 3, 4), (0, 4, 2)),
        ((0, 3), (3, 2)),
        ((70, 600), (600, 530)),
        ((3, 40001), (40001, 5)),  # k in parts
    ],
    ids=str,
)
def test_matmul(x_shape, other_shape):
    x, other = random(x_shape, bfloat16), random(other_shape, bfloat16, seed=1)
    y = fastdl.matmul(x, other)
    guarded = Guarded(y.shape, bfloat16)
    fastdl.matmul(x, other, out=guarded.array)
    guarded.check()
    exact = reference.matmul_forward(widened(x), widened(other))
    assert_rounded(y, exact, x_shape[-1])
    assert_rounded(guarded.array, exact, x_shape[-1])
    dy = random(y.shape, bfloat16, seed=2)
    grads = fastdl.matmul_backward(dy, x, other)
    for grad, exact_grad in zip(
        grads, reference.matmul_backward(widened(dy), widened(x), widened(other)), strict=True
    ):
        assert_rounded(grad, exact_grad, y.size * x_shape[-1] / max(grad.size, 1))


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize(
    ("x_shape", "weight_shape"), [((3, 4), (5, 4)), ((2, 9, 33), (50, 33)), ((7, 6), (6,))], ids=str
)
def test_linear(x_shape, weight_shape, activation):
    x, weight = random(x_shape, bfloat16), random(weight_shape, bfloat16, seed=1)
    bias = random(weight_shape[:-1], bfloat16, seed=2)
    residual = random(reference.linear_forward(widened(x), widened(weight)).shape, bfloat16, seed=3)
    y = fastdl.linear(x, weight, bias, activation=activation, residual=residual)
    exact = reference.linear_forward(
        *widened([x, weight, bias]), activation=activation, residual=widened(residual)
    )
    assert_rounded(y, exact, x_shape[-1])
    dy = random(y.shape, bfloat16, seed=4)
    grads = fastdl.linear_backward(dy, x, weight)
    exact_grads = reference.linear_backward(widened(dy), widened(x), widened(weight))
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        assert_rounded(grad, exact_grad, y.size)


def test_special_values():
    x, other = random((9, 21), bfloat16), random((21, 50), bfloat16, seed=1)
    x[1, 3], other[3, 2], x[8, 20], other[0, 49] = np.inf, 0, np.nan, -np.inf
    y = widened(fastdl.matmul(x, other))
    exact = reference.matmul_forward(widened(x), widened(other))
    np.testing.assert_array_equal(y[~np.isfinite(exact)], exact[~np.isfinite(exact)])
    assert np.isfinite(y[np.isfinite(exact)]).all()


def test_same_bits_for_any_threads():
    x, other = random((130, 1001), bfloat16), random((1001, 600), bfloat16, seed=1)
    dy = random((130, 600), bfloat16, seed=2)
    assert_same_bits_for_any_threads(
        lambda: [
            widened(a, np.float32)
            for a in (fastdl.matmul(x, other), *fastdl.matmul_backward(dy, x, other))
        ]
    )
