"""conv2d(..., activation=, residual=): the fused epilogue."""

import numpy as np
import pytest

import fastdl
from fastdl import reference
from tests.testing import (
    ACTIVATIONS,
    TORCH_ACTIVATIONS,
    Guarded,
    assert_close,
    assert_kernel,
    assert_same_bits,
    assert_same_bits_for_any_threads,
    random,
)

# One case for each kernel that has a forward.
CASES = [
    ((2, 3, 7, 9), (3, 3, 3, 3), {}, "implicit GEMM"),
    ((2, 17, 6, 5), (19, 17, 1, 1), {}, "matrix product"),
    ((2, 9, 17, 19), (35, 9, 3, 3), {"stride": 2}, "direct"),
    ((1, 9, 3, 700), (9, 9, 2, 3), {"padding": 1}, "direct, lanes along the pixels"),
    ((1, 9, 3, 1400), (9, 9, 2, 3), {"stride": (1, 2), "padding": 1}, "direct, lanes along the ch"),
    ((5, 8, 4, 4), (20, 8, 3, 3), {"padding": 1, "dilation": 2}, "direct"),  # images in one block
    ((2, 5, 9, 35), (5, 1, 3, 3), {"padding": 1, "groups": 5}, "depthwise, lanes along the plane"),
    ((2, 5, 9, 35), (10, 1, 3, 3), {"groups": 5}, "depthwise, lanes along the width"),
    ((2, 6, 9, 35), (8, 3, 3, 3), {"groups": 2}, "grouped, lanes along the width"),
    ((1, 32, 17, 19), (40, 32, 3, 3), {"padding": 1}, "Winograd"),
    ((8, 9, 7), (9, 8, 3, 3), {}, "direct"),  # one image
]


def inputs(x_shape, weight_shape, options, dtype):
    x, weight = random(x_shape, dtype), random(weight_shape, dtype, seed=1)
    weight /= dtype(np.sqrt(weight[0].size))  # results where the activations bend
    bias = random(weight_shape[:1], dtype, seed=2)
    residual = random(reference.conv2d_forward(x, weight, **options).shape, dtype, seed=3)
    return x, weight, bias, residual


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "kernel"), CASES, ids=str)
def test_forward(isa, dtype, x_shape, weight_shape, options, kernel, activation):
    x, weight, bias, residual = inputs(x_shape, weight_shape, options, dtype)
    for r in (residual, None):
        guarded = Guarded(residual.shape, dtype)
        fused = {"activation": activation, "residual": r}
        fastdl.conv2d(x, weight, bias, **options, **fused, out=guarded.array)
        assert_kernel(kernel)
        guarded.check()
        expected = reference.conv2d_forward(x, weight, bias, **options, **fused)
        assert_close(guarded.array, expected, factor=2)  # Winograd


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "kernel"), CASES, ids=str)
def test_equals_the_ops_one_by_one(x_shape, weight_shape, options, kernel, activation):
    x, weight, bias, residual = inputs(x_shape, weight_shape, options, np.float32)
    z = fastdl.conv2d(x, weight, bias, **options) + residual
    expected = ACTIVATIONS[activation](z)
    fused = {"activation": activation, "residual": residual}
    assert_same_bits(fastdl.conv2d(x, weight, bias, **options, **fused), expected)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_against_torch(torch, dtype, activation, with_residual):
    arrays = inputs((2, 9, 8, 7), (10, 9, 3, 3), {"stride": 2}, dtype)[: 3 + with_residual]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    z = torch.nn.functional.conv2d(*tensors[:3], stride=2)
    z = z + tensors[3] if with_residual else z
    expected = TORCH_ACTIVATIONS[activation](torch.nn.functional, z)
    residual = {"residual": arrays[3]} if with_residual else {}
    y, pullback = fastdl.vjp(
        fastdl.conv2d, *arrays[:3], stride=2, activation=activation, **residual
    )
    assert_close(y, expected.detach().numpy(), factor=2)  # both have errors
    dy = random(y.shape, dtype, seed=4)
    expected.backward(torch.tensor(dy))
    grads = pullback(dy)
    assert len(grads) == len(tensors)
    for grad, tensor in zip(grads, tensors, strict=True):
        assert_close(grad, tensor.grad.numpy(), scale=16.0)


@pytest.mark.parametrize(("x_shape", "weight_shape", "options", "kernel"), CASES, ids=str)
def test_special_values(isa, x_shape, weight_shape, options, kernel):
    x, weight, bias, residual = inputs(x_shape, weight_shape, options, np.float32)
    x[..., 0, 0], residual[..., -1, -1] = np.inf, np.nan
    fused = {"activation": "relu", "residual": residual}
    expected = reference.conv2d_forward(x, weight, bias, **options, **fused)
    y = fastdl.conv2d(x, weight, bias, **options, **fused)
    assert_close(y, expected)


@pytest.mark.parametrize("groups", [1, 24])
def test_same_bits_for_any_threads(isa, dtype, groups):
    options = {"padding": 1, "groups": groups, "stride": 2}
    x, weight, bias, residual = inputs((4, 24, 28, 28), (48, 24 // groups, 3, 3), options, dtype)
    fused = {"activation": "gelu", "residual": residual}
    assert_same_bits_for_any_threads(lambda: fastdl.conv2d(x, weight, bias, **options, **fused))


def test_errors():
    x, weight, bias, residual = inputs((1, 3, 4, 5), (2, 3, 3, 3), {}, np.float64)
    with pytest.raises(ValueError, match=r'^\[conv2d\] activation must be None, "relu", .* "elu"'):
        fastdl.conv2d(x, weight, bias, activation="elu")
    with pytest.raises(ValueError, match=r"^\[conv2d\] residual must have shape \(1, 2, 2, 3\)"):
        fastdl.conv2d(x, weight, bias, residual=residual[0])
    with pytest.raises(TypeError, match="residual is float32, x is float64"):
        fastdl.conv2d(x, weight, bias, residual=residual.astype(np.float32))
    with pytest.raises(ValueError, match="out shares memory with residual"):
        fastdl.conv2d(x, weight, bias, residual=residual, out=residual)
