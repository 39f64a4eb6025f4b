"""conv2d of 1x1 windows by the bfloat16 products of AVX512_BF16."""

import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.test_matmul_bfloat16 import assert_rounded, bfloat16, native  # noqa: F401
from tests.testing import Guarded, assert_same_bits_for_any_threads, random, widened

KERNEL = "matrix product of bfloat16 pairs on x as it lies"
TILES = "implicit GEMM, products of bfloat16 on tiles"

SHAPES = [
    ((2, 16, 5, 8), (24, 16, 1, 1)),
    ((2, 13, 7, 7), (29, 13, 1, 1)),  # odd channels, odd planes
    ((16, 4), (3, 16, 1, 1)),  # one image of a single row
    ((3, 1, 6, 5), (1, 1, 1, 1)),
    ((3, 8, 1, 1), (5, 8, 1, 1)),
    ((9, 70, 56, 56), (64, 70, 1, 1)),  # two images at a time
    ((0, 4, 5, 5), (3, 4, 1, 1)),
    ((2, 4, 5, 5), (3, 4, 1, 1)),
]


def make_inputs(x_shape, weight_shape):
    x, weight = random(x_shape, bfloat16), random(weight_shape, bfloat16, seed=1)
    x = x if x.ndim > 2 else x[:, None]
    return x, weight, random(weight_shape[:1], bfloat16, seed=2)


@pytest.mark.parametrize(("x_shape", "weight_shape"), SHAPES, ids=str)
def test_forward_and_backward(x_shape, weight_shape):
    x, weight, bias = make_inputs(x_shape, weight_shape)
    wide = widened([x, weight, bias])
    exact = reference.conv2d_forward(*wide)
    y = fastdl.conv2d(x, weight, bias)
    assert _core.last_trace()["kernel"] in (KERNEL, TILES)
    assert_rounded(y, exact, weight.shape[1])
    residual = random(y.shape, bfloat16, seed=3)
    guarded = Guarded(y.shape, bfloat16)
    options = {"activation": "relu", "padding": "same"}
    fastdl.conv2d(x, weight, bias, residual=residual, out=guarded.array, **options)
    guarded.check()
    exact = reference.conv2d_forward(*wide, residual=widened(residual), **options)
    assert_rounded(guarded.array, exact, weight.shape[1])
    dy = random(y.shape, bfloat16, seed=4)
    grads = fastdl.conv2d_backward(dy, x, weight)
    assert _core.last_trace()["kernel"] in (KERNEL, TILES)
    exact_grads = reference.conv2d_backward(widened(dy), *wide[:2])
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        assert_rounded(grad, exact_grad, y.size)


@pytest.mark.parametrize("i", range(3))
def test_output_mask(i):
    x, weight, _ = make_inputs(*SHAPES[0])
    dy = random((2, 24, 5, 8), bfloat16, seed=4)
    grads = fastdl.conv2d_backward(dy, x, weight, output_mask=tuple(j == i for j in range(3)))
    expected = fastdl.conv2d_backward(dy, x, weight)[i]
    assert [grad is None for grad in grads] == [j != i for j in range(3)]
    np.testing.assert_array_equal(grads[i], expected)


@pytest.mark.parametrize(
    ("weight_shape", "options"),
    [
        ((6, 4, 3, 3), {}),
        ((6, 4, 1, 1), {"stride": 2}),
        ((6, 4, 1, 1), {"padding": 1}),
        ((6, 2, 1, 1), {"groups": 2}),
    ],
    ids=str,
)
def test_other_windows_are_widened(weight_shape, options):
    x, weight, bias = make_inputs((2, 4, 5, 5), weight_shape)
    y = fastdl.conv2d(x, weight, bias, **options)
    assert _core.last_trace()["kernel"] != KERNEL
    exact = reference.conv2d_forward(*widened([x, weight, bias]), **options)
    assert_rounded(y, exact, weight[0].size)


def test_special_values():
    x, weight, _ = make_inputs((2, 5, 3, 3), (20, 5, 1, 1))
    x[1, 3, 1, 1], weight[2, 3], weight[7, 0], x[0, 4, 2, 2] = np.inf, 0, np.nan, -np.inf
    y = widened(fastdl.conv2d(x, weight))
    with np.errstate(invalid="ignore"):
        exact = reference.conv2d_forward(widened(x), widened(weight))
    np.testing.assert_array_equal(y[~np.isfinite(exact)], exact[~np.isfinite(exact)])
    assert np.isfinite(y[np.isfinite(exact)]).all()


def test_same_bits_for_any_threads():
    x, weight, bias = make_inputs((4, 65, 28, 27), (130, 65, 1, 1))
    dy = random((4, 130, 28, 27), bfloat16, seed=4)
    assert_same_bits_for_any_threads(
        lambda: widened(
            [fastdl.conv2d(x, weight, bias), *fastdl.conv2d_backward(dy, x, weight)], np.float32
        )
    )


def test_errors():
    x, weight, _ = make_inputs((2, 4, 5, 5), (3, 4, 1, 1))
    with pytest.raises(TypeError, match=r"^\[conv2d\] weight is bfloat16, x is float32"):
        fastdl.conv2d(widened(x, np.float32), weight)
    with pytest.raises(ValueError, match="weight has 4 input channels"):
        fastdl.conv2d(x[:, :3], weight)
