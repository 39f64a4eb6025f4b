import numpy as np
import pytest

import fastdl
from fastdl import _core, reference
from tests.testing import (
    Guarded,
    assert_close,
    assert_rejects_bad_arrays,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    broadcast_of,
    layouts,
    random,
)

# Tiles have 4 or 8 rows and 4, 12, 24 or 48 columns: one less, as many, one more.
ROWS = (1, 3, 4, 5, 7, 8, 9, 17)
COLUMNS = (1, 2, 4, 11, 12, 13, 23, 24, 25, 47, 48, 49, 197)
SHAPES = [
    *[((m, 19), (19, n)) for m in ROWS for n in COLUMNS],
    *[((9, k), (k, 13)) for k in (0, 1, 2, 15, 16, 17, 33, 255, 256, 257, 600)],
    ((4,), (4,)),
    ((0,), (0,)),  # an empty sum
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 2, 3, 4), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),  # more rows of one product
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (3, 4, 2)),
    ((3, 1, 2, 1, 5, 4), (2, 1, 3, 4, 2)),  # gradients summed over two runs of dimensions
    ((6, 2, 5, 7), (1, 2, 7, 3)),
    ((1, 3, 4), (0, 4, 2)),  # dx = 0: nothing to sum
    ((0, 3, 4), (4, 2)),
    ((2, 0, 3), (3, 2)),
    ((2, 3, 0), (0, 2)),
    ((5, 1, 4), (5, 4, 1)),
    ((500, 3, 4), (500, 4, 5)),  # several small matrices a block
]
LARGE = [
    ((150, 1300), (1300, 230)),  # several blocks, the columns and k in parts
    ((530, 520), (520, 310)),  # more rows than a block has beside 2 MB of L2
    ((20, 300), (300, 1100)),  # rows of B too far apart to be used as they lie
    ((3, 70001), (70001, 5)),  # small C: k is cut into parts
    ((2, 150001), (150001,)),  # rows of several parts
    ((1, 20011), (20011, 33)),  # columns of several parts
    ((1, 300), (300, 3000)),
    ((130001,), (130001,)),
]
IDS = {"ids": lambda shape: "x".join(map(str, shape)) or "scalar"}


def error_scale(x, other):
    """What the error of a sum grows with, also where the sum itself cancels."""
    size = max(x.shape[-1], 1)
    return np.sqrt(size) * np.max(np.abs(x), initial=0) * np.max(np.abs(other), initial=0)


def check(x_shape, other_shape, dtype):
    x, other = random(x_shape, dtype), random(other_shape, dtype, seed=1)
    y = fastdl.matmul(x, other)
    expected = reference.matmul_forward(x, other)
    assert y.dtype == dtype
    assert_close(y, expected, scale=max(error_scale(x, other), np.abs(expected).max(initial=0)) / 4)
    dy = random(y.shape, dtype, seed=2)
    for grad, reference_grad in zip(
        fastdl.matmul_backward(dy, x, other),
        reference.matmul_backward(dy, x, other),
        strict=True,
    ):
        scale = np.abs(dy).max(initial=0) * max(
            np.abs(x).max(initial=0), np.abs(other).max(initial=0)
        )
        terms = max(y.size * x.shape[-1] / max(grad.size, 1), 1)
        assert_close(grad, reference_grad, scale=np.sqrt(terms) * scale / 4)


@pytest.mark.parametrize(("x_shape", "other_shape"), SHAPES, **IDS)
def test_forward_and_backward(isa, dtype, x_shape, other_shape):
    check(x_shape, other_shape, dtype)


@pytest.mark.parametrize(("x_shape", "other_shape"), LARGE, **IDS)
def test_large(isa, dtype, x_shape, other_shape):
    check(x_shape, other_shape, dtype)


@pytest.mark.parametrize("k", [0, 1, 3])
def test_few_terms_of_a_result_beyond_the_caches(isa, k):
    x, other = random((2903, k), np.float32), random((k, 2901), np.float32, seed=1)
    out = np.empty(2903 * 2901 + 1, np.float32)[1:].reshape(2903, 2901)
    fastdl.matmul(x, other, out=out)
    np.testing.assert_allclose(out, x @ other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [100, 1000, 5000])
def test_error_does_not_grow_with_k(isa, k):
    x, other = random((65, k), np.float32), random((k, 97), np.float32, seed=1)
    assert_close(fastdl.matmul(x, other), reference.matmul_forward(x, other))


@pytest.mark.parametrize("k", [300, 512])
def test_long_columns_of_a_transposed_matrix(torch, k):
    """Sums of up to 512 terms in registers: as good as torch's, by the rule of accuracy."""
    a, b = random((k, 128), np.float32), random((k, 3072), np.float32, seed=1)
    truth = a.T.astype(np.float64) @ b
    error = np.abs(fastdl.matmul(a.T, b) - truth).max()
    theirs = np.abs((torch.tensor(a).T @ torch.tensor(b)).numpy() - truth).max()
    assert error <= 2 * theirs + 4 * np.finfo(np.float32).eps * np.abs(truth).max()


@pytest.mark.parametrize(
    ("x_shape", "other_shape", "kernel"),
    [
        ((3, 4), (4, 5), "gemm"),
        ((3, 4), (4,), "dots"),
        ((4,), (4, 5), "gemv, columns"),
        ((4,), (4,), "dots"),
        ((1, 3, 40), (1, 40, 1), "dots"),
        ((0, 4), (4, 5), "nothing"),
    ],
    **IDS,
)
def test_kernel(x_shape, other_shape, kernel):
    fastdl.matmul(random(x_shape), random(other_shape))
    trace = fastdl._core.last_trace()
    assert trace["kernel"].startswith(kernel)


def test_flops():
    fastdl.matmul(random((2, 3, 4)), random((4, 5)))
    assert fastdl._core.last_trace()["flops"] == 2 * 2 * 3 * 4 * 5


@pytest.mark.parametrize(("x_shape", "other_shape"), SHAPES[-16:], **IDS)
def test_against_torch(torch, dtype, x_shape, other_shape):
    x, other = random(x_shape, dtype), random(other_shape, dtype, seed=1)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, other)]
    expected = torch.matmul(*tensors)
    y, pullback = fastdl.vjp(fastdl.matmul, x, other)
    scale = error_scale(x, other)
    assert_close(y, expected.detach().numpy(), scale=scale)
    dy = random(y.shape, dtype, seed=2)
    expected.backward(torch.tensor(dy))
    for grad, tensor in zip(pullback(dy), tensors, strict=True):
        scale = 5 + np.abs(tensor.grad.numpy()).max(initial=0)  # 5 > the largest factors' product
        assert_close(grad, tensor.grad.numpy(), scale=scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "shapes", [((9, 20), (20, 50)), ((20,), (20, 50)), ((9, 20), (20,))], **IDS
)
def test_special_values(isa, dtype, value, shapes):
    # a zero in the other factor meets them: 0 * inf = NaN; the last row and column are in the tails
    x, other = (random(shape, dtype) for shape in shapes)
    x[..., 19] = other[2, ...] = 0
    x[..., 2] = other[19, ...] = value
    if x.ndim == 2:
        x[0] = 1
    with np.errstate(invalid="ignore"):
        expected = reference.matmul_forward(x, other)
    y = fastdl.matmul(x, other)
    np.testing.assert_array_equal(y, expected)
    assert np.isnan(y).any()


def test_denormals_and_large_values(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x, other = np.full((3, 5), tiny, dtype), np.ones((5, 7), dtype)
    assert_same_bits(fastdl.matmul(x, other), np.full((3, 7), 5 * tiny, dtype))
    assert_same_bits(fastdl.matmul(x[0] * 0 + dtype(1e4), other), np.full(7, 5e4, dtype))


def test_any_layout(dtype):
    x, other = random((5, 6, 7), dtype), random((5, 7, 9), dtype)
    for array in [*layouts(x).values(), broadcast_of(x)]:
        plain = np.ascontiguousarray(array, dtype)
        assert_same_bits(fastdl.matmul(array, other), fastdl.matmul(plain, other))
    for array in [*layouts(other).values(), broadcast_of(other)]:
        plain = np.ascontiguousarray(array, dtype)
        assert_same_bits(fastdl.matmul(x, array), fastdl.matmul(x, plain))


@pytest.mark.parametrize(("x_shape", "other_shape"), [*LARGE, ((40, 30, 50), (40, 50, 60))], **IDS)
def test_same_bits_for_any_threads(isa, dtype, x_shape, other_shape):
    x, other = random(x_shape, dtype), random(other_shape, dtype, seed=1)
    dy = random(reference.matmul_forward(x, other).shape, dtype, seed=2)
    assert_same_bits_for_any_threads(
        lambda: (fastdl.matmul(x, other), *fastdl.matmul_backward(dy, x, other))
    )


@pytest.mark.parametrize(
    ("x_shape", "other_shape"),
    [((9, 20), (20, 53)), ((2, 3, 4), (4, 5)), ((20,), (20, 53)), ((9, 20), (20,)), LARGE[1]],
    **IDS,
)
def test_out(isa, dtype, x_shape, other_shape):
    x, other = random(x_shape, dtype), random(other_shape, dtype, seed=1)
    y = fastdl.matmul(x, other)
    guarded = Guarded(y.shape, dtype)
    assert fastdl.matmul(x, other, out=guarded.array) is guarded.array
    guarded.check()
    assert_same_bits(guarded.array, y)
    strided = np.zeros(y.T.shape, dtype).T
    assert_same_bits(fastdl.matmul(x, other, out=strided), y)


@pytest.mark.parametrize(
    ("x_shape", "n"),
    # tiles; a sum of nothing; rows times a few columns; one row, one column; one sum; more rows
    [((9, 33), 49), ((4, 0), 5), ((70, 300), 3), ((1, 19), 40), ((40, 19), 1), ((19,), 7),
     ((2, 3, 5), 6), ((0, 3), 4)],
    ids=str,
)  # fmt: skip
def test_bias(isa, dtype, x_shape, n):
    x, other, bias = (random(s, dtype, i) for i, s in enumerate((x_shape, (x_shape[-1], n), (n,))))
    expected = reference.matmul_forward(x, other, bias)
    y = _core.matmul_forward(x, other, bias=bias)
    assert_close(y, expected, scale=(error_scale(x, other) + np.abs(bias).max()) / 4)


def test_bias_errors():
    x, other = random((3, 4)), random((4, 5))
    with pytest.raises(ValueError, match=r"bias must have shape \(5,\)"):
        _core.matmul_forward(x, other, bias=random(3))
    with pytest.raises(ValueError, match="a bias goes with a matrix other"):
        _core.matmul_forward(x, random(4), bias=random(1))
    with pytest.raises(TypeError, match="bias is float32, x is float64"):
        _core.matmul_forward(x, other, bias=random(5, np.float32))


def test_output_mask():
    x, other, dy = random((3, 4)), random((4, 5)), random((3, 5))
    both = fastdl.matmul_backward(dy, x, other)
    assert_same_bits(fastdl.matmul_backward(dy, x, other, (True, False)), (both[0], None))
    assert_same_bits(fastdl.matmul_backward(dy, x, other, (False, True)), (None, both[1]))


def test_errors():
    x, other = random((3, 4)), random((4, 5))
    assert_rejects_bad_arrays(lambda bad: fastdl.matmul(bad, other), x)
    assert_rejects_bad_arrays(lambda bad: fastdl.matmul(x, bad), other)
    assert_rejects_bad_arrays(lambda bad: fastdl.matmul_backward(bad, x, other), random((3, 5)))
    for bad, message in [
        (np.float64(1), "at least 1 dimension"),
        (random((5, 4)), "rows of 4, other has columns of 5"),
        (random(5), "rows of 4, other has columns of 5"),
    ]:
        with pytest.raises(ValueError, match=rf"^\[matmul\] .*{message}"):
            fastdl.matmul(x, bad)
    with pytest.raises(ValueError, match="do not broadcast"):
        fastdl.matmul(random((2, 3, 4)), random((3, 4, 5)))
    with pytest.raises(TypeError, match="x is float64, other is float32"):
        fastdl.matmul(x, other.astype(np.float32))
    for out, error in [
        (np.zeros((5, 3)), ValueError),
        (np.zeros((3, 5), np.float32), TypeError),
    ]:
        with pytest.raises(error, match=r"^\[matmul\] out "):
            fastdl.matmul(x, other, out=out)
    square = random((4, 4))
    with pytest.raises(ValueError, match="out shares memory with x"):
        fastdl.matmul(square, square.copy(), out=square)
    with pytest.raises(ValueError, match=r"dy must have shape \(3, 5\)"):
        fastdl.matmul_backward(x, x, other)
    with pytest.raises(TypeError, match="dy is float32, x is float64"):
        fastdl.matmul_backward(random((3, 5), np.float32), x, other)


def test_result_too_large():
    x, other = np.zeros((2**31, 1, 1), np.float32)[:, :, :0], np.zeros((1, 0, 1), np.float32)
    huge = np.broadcast_to(other, (2**31, 1, 0, 1))
    with pytest.raises((ValueError, MemoryError)):
        fastdl.matmul(x, huge)
